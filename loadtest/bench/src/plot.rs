//! Latency against offered rate, as SVG: three lines over a logarithmic scale of milliseconds.

use std::fmt::Write;

use crate::open::Step;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
/// Around the field of the lines: left, top, right, bottom.
const MARGIN: [f64; 4] = [64.0, 48.0, 72.0, 56.0];
/// Decades of milliseconds: 0.1 to 10,000.
const DECADES: [i32; 2] = [-1, 4];
/// Lines up and down that divide the rates.
const PARTS: u32 = 6;

type Line = (&'static str, &'static str, fn(&Step) -> f64);

const LINES: [Line; 3] = [
    ("p99", "#b2182b", |step| step.p99_ms),
    ("p95", "#ef8a62", |step| step.p95_ms),
    ("p50", "#2166ac", |step| step.p50_ms),
];

/// The picture; `steady` is marked.
pub(crate) fn latency(title: &str, steps: &[Step], steady: f64) -> String {
    let offered = steps.iter().map(|step| step.offered).fold(steady, f64::max);
    let rate_max = round_up(offered * 1.02);
    let [left, top, right, bottom] = MARGIN;
    let x = |rate: f64| left + rate / rate_max * (WIDTH - left - right);
    let y = |ms: f64| {
        let [from, to] = DECADES.map(f64::from);
        let part = (ms.max(0.1).log10() - from) / (to - from);
        HEIGHT - bottom - part.min(1.0) * (HEIGHT - top - bottom)
    };
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>
<text x="{left}" y="24" font-size="15">{title}</text>
"##
    );
    let (bottom_y, right_x) = (HEIGHT - bottom, WIDTH - right);
    let mut put = |text: std::fmt::Arguments<'_>| svg.write_fmt(text).expect("a string takes everything");
    for decade in DECADES[0]..=DECADES[1] {
        let ms = 10f64.powi(decade);
        let at = y(ms);
        put(format_args!(
            "<line x1=\"{left}\" x2=\"{right_x}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{ms} ms</text>\n",
            left - 6.0,
            at + 4.0
        ));
    }
    for part in 0..=PARTS {
        let rate = rate_max * f64::from(part) / f64::from(PARTS);
        put(format_args!(
            "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{top}\" y2=\"{bottom_y}\" stroke=\"#eee\"/>\n\
             <text x=\"{0:.1}\" y=\"{1:.1}\" text-anchor=\"middle\">{rate:.0}</text>\n",
            x(rate),
            bottom_y + 18.0
        ));
    }
    put(format_args!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">durable reservations offered per second</text>\n\
         <line x1=\"{2:.1}\" x2=\"{2:.1}\" y1=\"{top}\" y2=\"{bottom_y}\" stroke=\"#888\" stroke-dasharray=\"4 4\"/>\n\
         <text x=\"{2:.1}\" y=\"{3:.1}\" text-anchor=\"middle\" fill=\"#555\">steady</text>\n",
        (left + right_x) / 2.0,
        HEIGHT - 14.0,
        x(steady),
        top - 6.0
    ));
    for (name, colour, of) in LINES {
        let there: Vec<&Step> = steps.iter().filter(|step| of(step).is_finite()).collect();
        let points: Vec<String> = there
            .iter()
            .map(|step| format!("{:.1},{:.1}", x(step.offered), y(of(step))))
            .collect();
        put(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n",
            points.join(" ")
        ));
        for point in &points {
            let (cx, cy) = point.split_once(',').unwrap_or_default();
            put(format_args!(
                "<circle cx=\"{cx}\" cy=\"{cy}\" r=\"3\" fill=\"{colour}\"/>\n"
            ));
        }
        if let Some(last) = there.last() {
            put(format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>\n",
                x(last.offered) + 8.0,
                y(of(last)) + 4.0
            ));
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// To two digits, so that the scale is readable.
fn round_up(rate: f64) -> f64 {
    let digit = 10f64.powf(rate.max(1.0).log10().floor() - 1.0);
    (rate / digit).ceil() * digit
}

#[cfg(test)]
mod tests {
    use super::{Step, latency};

    #[test]
    fn every_step_is_a_point_of_each_line() {
        let step = |offered: f64| Step {
            offered,
            granted: offered,
            failed: 0.0,
            p50_ms: 2.0,
            p95_ms: 5.0,
            p99_ms: f64::NAN,
        };
        let svg = latency("title", &[step(100.0), step(200.0)], 210.0);
        assert_eq!(svg.matches("<circle").count(), 4, "what has no figure has no point");
        assert!(svg.contains("title") && svg.ends_with("</svg>\n"));
    }
}
