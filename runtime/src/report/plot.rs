//! Line plots and bars as SVG text.

use plotters::chart::MeshStyle;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::FontStyle;

/// Colours that stay apart for colour-blind readers (Okabe and Ito, 2008), without yellow.
const COLOURS: [(u8, u8, u8); 7] = [
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (230, 159, 0),
    (90, 90, 90),
];

/// The colour of the `index`-th of several things. Past the last colour they repeat, darker each time.
pub(super) fn colour(index: usize) -> RGBColor {
    let (red, green, blue) = COLOURS[index % COLOURS.len()];
    let darker = u8::try_from(1 + index / COLOURS.len()).unwrap_or(u8::MAX);
    RGBColor(red / darker, green / darker, blue / darker)
}

/// Where the names of the lines have room.
#[derive(Clone, Copy)]
pub(super) enum Legend {
    /// For lines that fall.
    Above,
    /// For lines that stay high.
    Below,
    /// For lines that rise from the left.
    Left,
}

impl Legend {
    fn position(self) -> SeriesLabelPosition {
        match self {
            Self::Above => SeriesLabelPosition::UpperRight,
            Self::Below => SeriesLabelPosition::LowerRight,
            Self::Left => SeriesLabelPosition::UpperLeft,
        }
    }
}

/// A named line.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// Lines over the steps; none when there are fewer than two points. Values that are not finite
/// are left out.
pub(super) fn lines(title: &str, y: &str, legend: Legend, lines: &[Line]) -> Option<String> {
    let points = || {
        lines
            .iter()
            .flat_map(|line| &line.points)
            .filter(|(_, y)| y.is_finite())
    };
    if points().count() < 2 {
        return None;
    }
    let (left, right) = extent(points().map(|(x, _)| *x));
    let (low, high) = extent(points().map(|(_, y)| *y));
    let margin = ((high - low) * 0.05).max(1e-6);
    let frame = Frame {
        title,
        height: 340,
        below: 38,
        legend: legend.position(),
        across: left..right.max(left + 1.0),
        up: low - margin..high + margin,
    };
    frame.draw(|chart| {
        draw_mesh(
            chart
                .configure_mesh()
                .x_desc("step")
                .y_desc(y)
                .x_label_formatter(&|step| format!("{step:.0}")),
        )?;
        for (index, line) in lines.iter().enumerate() {
            let style = colour(index).stroke_width(2);
            let points = line.points.iter().copied().filter(|(_, y)| y.is_finite());
            chart
                .draw_series(LineSeries::new(points, style))
                .ok()?
                .label(line.name.as_str())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
        Some(())
    })
}

/// The least and the largest.
fn extent(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    })
}

type Range = std::ops::Range<f64>;

/// Two axes of numbers.
type Plane = Cartesian2d<RangedCoordf64, RangedCoordf64>;

/// What all plots look like around their contents.
struct Frame<'a> {
    title: &'a str,
    height: u32,
    /// Room for the names of the x axis, pixels.
    below: u32,
    legend: SeriesLabelPosition,
    across: Range,
    up: Range,
}

impl Frame<'_> {
    /// The title, what `contents` adds, and the names of all series; none where the drawing library
    /// refuses.
    fn draw(
        self,
        contents: impl FnOnce(&mut ChartContext<'_, SVGBackend<'_>, Plane>) -> Option<()>,
    ) -> Option<String> {
        let mut text = String::new();
        self.draw_into(&mut text, contents)?;
        Some(text)
    }

    fn draw_into(
        self,
        text: &mut String,
        contents: impl FnOnce(&mut ChartContext<'_, SVGBackend<'_>, Plane>) -> Option<()>,
    ) -> Option<()> {
        let area = SVGBackend::with_string(text, (620, self.height)).into_drawing_area();
        area.fill(&WHITE).ok()?;
        let font = ("sans-serif", 15).into_font();
        let mut chart = ChartBuilder::on(&area)
            .caption(self.title, font.style(FontStyle::Bold))
            .margin(10)
            .x_label_area_size(self.below)
            .y_label_area_size(52)
            .build_cartesian_2d(self.across, self.up)
            .ok()?;
        contents(&mut chart)?;
        chart
            .configure_series_labels()
            .position(self.legend)
            .background_style(WHITE.mix(0.85))
            .border_style(RGBColor(200, 200, 200))
            .label_font(("sans-serif", 12))
            .draw()
            .ok()?;
        area.present().ok()
    }
}

/// Draws a mesh in the colours and sizes of all plots.
fn draw_mesh(
    mesh: &mut MeshStyle<'_, '_, RangedCoordf64, RangedCoordf64, SVGBackend<'_>>,
) -> Option<()> {
    mesh.light_line_style(WHITE)
        .bold_line_style(RGBColor(230, 230, 230))
        .axis_desc_style(("sans-serif", 13))
        .label_style(("sans-serif", 12))
        .draw()
        .ok()
}

/// Points of one name.
pub(super) struct Cloud {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// Points over two axes, a colour for each name; none without points.
pub(super) fn scatter(title: &str, x: &str, y: &str, clouds: &[Cloud]) -> Option<String> {
    let all = || clouds.iter().flat_map(|cloud| cloud.points.iter().copied());
    all().next()?;
    let range = |(low, high): (f64, f64)| {
        let margin = (0.15 * (high - low)).max(0.02 * high.abs()).max(1e-3);
        low - margin..high + margin
    };
    let mut across = range(extent(all().map(|it| it.0)));
    // Points may lie in every corner: their names get room of their own on the right.
    across.end += 0.6 * (across.end - across.start);
    let frame = Frame {
        title,
        height: 340,
        below: 38,
        legend: SeriesLabelPosition::MiddleRight,
        across,
        up: range(extent(all().map(|it| it.1))),
    };
    frame.draw(|chart| {
        draw_mesh(chart.configure_mesh().x_desc(x).y_desc(y))?;
        for (index, cloud) in clouds.iter().enumerate() {
            let style = colour(index).filled();
            let points = cloud.points.iter().map(|at| Circle::new(*at, 4, style));
            chart
                .draw_series(points)
                .ok()?
                .label(cloud.name.as_str())
                .legend(move |(x, y)| Circle::new((x + 9, y), 4, style));
        }
        Some(())
    })
}

/// A way through layers, and the share of all that takes it.
pub(super) struct Way<'a> {
    pub(super) stops: &'a [u32],
    pub(super) share: f64,
}

/// Ways as lines from layer to layer: the first two in colour, the others grey. Lines are the wider the
/// more take them, and stand a little beside each other.
pub(super) fn ways(title: &str, layers: &[String], experts: usize, ways: &[Way]) -> Option<String> {
    if layers.len() < 2 || ways.is_empty() {
        return None;
    }
    let last = layers.len() as f64 - 1.0;
    let frame = Frame {
        title,
        height: 300,
        below: 38,
        legend: SeriesLabelPosition::MiddleRight,
        across: -0.2..last * 1.45,
        up: -0.5..experts as f64 - 0.5,
    };
    frame.draw(|chart| {
        let named = |at: &f64| {
            let layer = layers.get(at.round() as usize);
            let whole = (at - at.round()).abs() < 0.01 && *at > -0.01;
            layer.filter(|_| whole).cloned().unwrap_or_default()
        };
        let whole = |at: &f64| match (at - at.round()).abs() < 0.01 {
            true => format!("{at:.0}"),
            false => String::new(),
        };
        draw_mesh(
            chart
                .configure_mesh()
                .x_desc("layer")
                .y_desc("expert")
                .x_labels(4 * layers.len())
                .x_label_formatter(&named)
                .y_labels(2 * experts + 1)
                .y_label_formatter(&whole),
        )?;
        // The most frequent ones lie on top.
        for (index, way) in ways.iter().enumerate().rev() {
            let aside = 0.05 * (index as f64 - (ways.len() as f64 - 1.0) / 2.0);
            let points = way.stops.iter().enumerate();
            let points = points.map(|(layer, expert)| (layer as f64, f64::from(*expert) + aside));
            let shade = match index {
                0 | 1 => colour(index),
                _ => RGBColor(190, 190, 190),
            };
            let style = shade.stroke_width(1 + (12.0 * way.share).round() as u32);
            let line = chart.draw_series(LineSeries::new(points, style)).ok()?;
            if index < 2 {
                let stops: Vec<String> = way.stops.iter().map(u32::to_string).collect();
                line.label(format!("{}  {:.0} %", stops.join(" "), 100.0 * way.share))
                    .legend(move |(x, y)| {
                        PathElement::new([(x, y), (x + 18, y)], shade.stroke_width(3))
                    });
            }
        }
        Some(())
    })
}

/// Bars side by side in groups: for each group a value of every name, 0 to 1.
pub(super) fn bars(
    title: &str,
    y: &str,
    groups: &[String],
    series: &[(String, Vec<f64>)],
) -> Option<String> {
    let highest = series
        .iter()
        .flat_map(|(_, values)| values)
        .fold(0.0f64, |a, b| a.max(*b));
    if groups.is_empty() || series.is_empty() {
        return None;
    }
    let count = groups.len();
    // Many names get room of their own on the right.
    let (legend, aside, above) = match series.len() {
        0..=3 => (SeriesLabelPosition::UpperRight, 0.0, 1.3),
        _ => (SeriesLabelPosition::MiddleRight, 0.4 * count as f64, 1.1),
    };
    let frame = Frame {
        title,
        height: 300,
        below: 34,
        legend,
        across: -0.5..count as f64 - 0.5 + aside,
        up: 0.0..highest.max(1e-6) * above,
    };
    frame.draw(|chart| {
        let name = |at: &f64| {
            let nearest = at.round();
            let whole = (at - nearest).abs() < 0.01 && nearest >= 0.0;
            let group = whole.then(|| groups.get(nearest as usize)).flatten();
            group.cloned().unwrap_or_default()
        };
        draw_mesh(
            chart
                .configure_mesh()
                .disable_x_mesh()
                .x_labels((count as f64 + aside).ceil().max(2.0) as usize * 2 + 1)
                .x_label_formatter(&name)
                .y_desc(y),
        )?;
        let width = 0.8 / series.len() as f64;
        for (index, (name, values)) in series.iter().enumerate() {
            let style = colour(index).filled();
            let rectangles = values.iter().enumerate().map(|(group, value)| {
                let left = group as f64 - 0.4 + width * index as f64;
                Rectangle::new([(left, 0.0), (left + width * 0.92, *value)], style)
            });
            chart
                .draw_series(rectangles)
                .ok()?
                .label(name.as_str())
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], style));
        }
        Some(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_bars_are_whole_pictures() {
        let line = Line {
            name: "loss".to_owned(),
            points: vec![(0.0, 4.8), (10.0, f64::NAN), (20.0, 1.2)],
        };
        let text = lines("Loss", "nats", Legend::Above, &[line]).unwrap();
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
        assert!(text.contains("loss") && !text.contains("NaN"));
        let groups = ["0", "1"].map(str::to_owned);
        let text = bars(
            "Experts",
            "share",
            &groups,
            &[("image".to_owned(), vec![0.2, 0.8])],
        );
        assert!(text.unwrap().trim_end().ends_with("</svg>"));
        assert!(lines("Loss", "nats", Legend::Above, &[]).is_none());
        let layers = ["0", "2"].map(str::to_owned);
        let way = |stops, share| Way { stops, share };
        let taken = [way(&[0, 3], 0.6), way(&[1, 1], 0.3), way(&[2, 0], 0.1)];
        let text = ways("Ways", &layers, 4, &taken).unwrap();
        assert!(text.trim_end().ends_with("</svg>"));
        assert!(text.contains("0 3  60 %") && text.contains("1 1  30 %"));
        assert!(!text.contains("2 0  10 %"));
        assert!(ways("Ways", &layers[..1], 4, &taken).is_none());
    }
}
