// `k6/metrics`: Counter, Rate and Trend.
import { context } from './context.mjs';

class Metric {
  /**
   * @param {string} name
   * @param {import('../samples.mjs').Kind} kind
   */
  constructor(name, kind) {
    // k6 refuses other names, and metrics made after the script was loaded.
    if (!/^[A-Za-z_]\w{0,127}$/.test(name)) throw new Error(`"${name}" is no name for a metric`);
    if (context.place.iteration >= 0) throw new Error(`metric ${name} must be made when the script is loaded`);
    this.name = name;
    context.recorder.define(name, kind);
  }

  /**
   * @param {number | boolean} value
   * @param {Record<string, string>} [tags]
   */
  add(value, tags) {
    context.recorder.add(this.name, value, tags);
  }
}

export class Counter extends Metric {
  /** @param {string} name */
  constructor(name) {
    super(name, 'counter');
  }
}

export class Rate extends Metric {
  /** @param {string} name */
  constructor(name) {
    super(name, 'rate');
  }

  /**
   * @override
   * @param {number | boolean} value
   * @param {Record<string, string>} [tags]
   */
  add(value, tags) {
    super.add(Boolean(value), tags);
  }
}

export class Trend extends Metric {
  /** @param {string} name */
  constructor(name) {
    super(name, 'trend');
  }
}

export default { Counter, Rate, Trend };
