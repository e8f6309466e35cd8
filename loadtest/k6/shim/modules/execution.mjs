// `k6/execution`: which scenario, which iteration of it, which VU.
import { context } from './context.mjs';

export const scenario = {
  get name() {
    return context.place.scenario;
  },
  get iterationInTest() {
    return context.place.iteration;
  },
};

export const vu = {
  get idInTest() {
    return context.place.vu;
  },
};

export default { scenario, vu };
