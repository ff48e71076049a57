//! Numbers, paragraphs and tables as they stand in the report.

use super::stats::Spread;

/// Where prose is wrapped, in columns.
const COLUMNS: usize = 120;

/// Three digits that count, and a space between thousands.
pub fn number(value: f64) -> String {
    let decimals = |decimals: i32| format!("{value:.*}", usize::try_from(decimals).unwrap_or(0));
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    // Of the value as it will be shown: 9.996 is shown as 10.0.
    let rounded: f64 = format!("{value:.2e}").parse().unwrap_or(value);
    let magnitude = rounded.abs().log10().floor() as i32;
    if magnitude < 2 {
        return decimals((2 - magnitude).min(6));
    }
    grouped(&format!("{rounded:.0}"))
}

/// A position on an axis, or a bound: all its digits.
pub fn exact(value: f64) -> String {
    let text = value.to_string();
    match text.split_once('.') {
        Some((whole, fraction)) => format!("{}.{fraction}", grouped(whole)),
        None => grouped(&text),
    }
}

fn grouped(digits: &str) -> String {
    let mut out = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) && digits.len() > 3 && !out.ends_with('-') {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// `median [least–most]`; the median alone of a single run.
pub fn spread(spread: &Spread, unit: &str) -> String {
    let median = format!("{}{unit}", number(spread.median));
    if spread.least == spread.most {
        return median;
    }
    format!("{median} [{}–{}]", number(spread.least), number(spread.most))
}

/// A paragraph, wrapped.
pub fn paragraph(text: &str) -> String {
    wrapped(text, "")
}

/// An item of a list, wrapped.
pub fn item(text: &str) -> String {
    wrapped(text, "- ")
}

fn wrapped(text: &str, mark: &str) -> String {
    let indent = " ".repeat(mark.len());
    let mut out = String::new();
    let mut line = mark.to_owned();
    for word in text.split_whitespace() {
        let begins = line.len() <= mark.len();
        if !begins && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            out.push_str(line.trim_end());
            out.push('\n');
            line.clone_from(&indent);
        } else if !begins {
            line.push(' ');
        }
        line.push_str(word);
    }
    out + line.trim_end() + "\n"
}

/// A table; the first row is its head. What stands in a cell cannot end it.
pub fn table(rows: &[Vec<String>]) -> String {
    let mut out = String::new();
    for (at, row) in rows.iter().enumerate() {
        let cells: Vec<_> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        out += &format!("| {} |\n", cells.join(" | ")).replace("|  |", "| |");
        if at == 0 {
            out += &format!("|{}\n", "---|".repeat(row.len()));
        }
    }
    out
}

/// What a heading is linked by.
pub fn anchor(heading: &str) -> String {
    let kept =
        heading.to_lowercase().chars().filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-').collect::<String>();
    format!("#{}", kept.replace(' ', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_count() {
        let shown: Vec<_> =
            [0.001_234, 0.1625, 1.0, 9.996, 28.04, 132.4, 999.9, 35_849.0, 1_234_567.0].map(number).to_vec();
        assert_eq!(shown, ["0.00123", "0.163", "1.00", "10.0", "28.0", "132", "1 000", "35 800", "1 230 000"]);
    }

    #[test]
    fn a_position_keeps_its_digits() {
        assert_eq!([64.0, 32_768.0, 1.5].map(exact), ["64", "32 768", "1.5"]);
    }

    #[test]
    fn a_paragraph_is_wrapped_and_an_item_indented() {
        let text = "word ".repeat(60);
        assert!(paragraph(&text).lines().all(|line| line.len() <= 120));
        assert_eq!(paragraph(&text).lines().count(), 3);
        let item = item(&text);
        assert!(item.starts_with("- word") && item.lines().skip(1).all(|line| line.starts_with("  word")), "{item}");
    }

    #[test]
    fn a_bar_in_a_cell_does_not_end_it() {
        let rows = [vec!["a".to_owned()], vec!["x | y".to_owned()]];
        assert_eq!(table(&rows), "| a |\n|---|\n| x \\| y |\n");
    }

    #[test]
    fn an_anchor_is_the_heading_without_its_signs() {
        assert_eq!(anchor("Updates, 64 callers (`disk`)"), "#updates-64-callers-disk");
    }
}
