//! What a picture is made of. The same figures give the same bytes.

/// Every picture is this wide.
pub const WIDTH: f64 = 760.0;

/// Colours that can be told apart on white and on black; the first is ours.
pub const COLOURS: usize = 6;

/// The colour of what is not ours, where only that is told apart.
pub const GREY: usize = 5;

const STYLE: &str = "\
.ground{fill:#ffffff}
text{font-family:system-ui,-apple-system,Segoe UI,Helvetica,Arial,sans-serif;font-size:12px;fill:#1f2328}
.title{font-size:14px;font-weight:600}
.faint{fill:#59636e}
.grid{stroke:#d8dee4;stroke-width:1}
.axis{stroke:#8c959f;stroke-width:1}
.reach{stroke:#1f2328;stroke-width:1}
.line{fill:none;stroke-width:2}
.pale{opacity:0.5}
.dashed{stroke-dasharray:6 4}
.f0{fill:#2f7de1}.f1{fill:#d9822b}.f2{fill:#2f9e6e}.f3{fill:#b65fc2}.f4{fill:#d1495b}.f5{fill:#8b949e}
.s0{stroke:#2f7de1}.s1{stroke:#d9822b}.s2{stroke:#2f9e6e}.s3{stroke:#b65fc2}.s4{stroke:#d1495b}.s5{stroke:#8b949e}
@media (prefers-color-scheme:dark){
.ground{fill:#0d1117}
text{fill:#f0f6fc}
.faint{fill:#9198a1}
.grid{stroke:#2a313c}
.axis{stroke:#656c76}
.reach{stroke:#f0f6fc}
}
";

/// A picture that is being drawn, from the top left corner, in pixels.
pub struct Picture {
    body: String,
}

/// Where a text stands against its point.
#[derive(Clone, Copy)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

impl Picture {
    pub fn new() -> Self {
        Self { body: String::new() }
    }

    pub fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.body += &format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{}</text>\n",
            escaped(text)
        );
    }

    pub fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        self.body +=
            &format!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>\n");
    }

    pub fn path(&mut self, points: &[(f64, f64)], class: &str) {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        self.body += &format!("<polyline points=\"{}\" class=\"{class}\"/>\n", points.join(" "));
    }

    pub fn bar(&mut self, (x, y): (f64, f64), width: f64, height: f64, class: &str) {
        self.body += &format!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" class=\"{class}\"/>\n"
        );
    }

    pub fn dot(&mut self, (x, y): (f64, f64), class: &str) {
        self.body += &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" class=\"{class}\"/>\n");
    }

    /// The file, with `title` for those who cannot see it.
    pub fn finish(self, title: &str, height: f64) -> String {
        let title = escaped(title);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {WIDTH:.0} {height:.0}\" role=\"img\" aria-label=\"{title}\">\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n\
             <rect x=\"0\" y=\"0\" width=\"{WIDTH:.0}\" height=\"{height:.0}\" class=\"ground\"/>\n{}</svg>\n",
            self.body
        )
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_markup_in_a_name_are_text() {
        let mut picture = Picture::new();
        picture.text((0.0, 0.0), Anchor::Start, "", "a <b> & \"c\"");
        let svg = picture.finish("<title>", 10.0);
        assert!(svg.contains(">a &lt;b&gt; &amp; &quot;c&quot;</text>"), "{svg}");
        assert!(svg.contains("<title>&lt;title&gt;</title>"), "{svg}");
    }
}
