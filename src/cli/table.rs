//! Tables for people: columns as wide as their widest cell, two spaces between them.

/// Renders `rows` under `head`; every row has as many cells as the head. Ends with a line break.
pub(crate) fn render<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = head.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let mut line = |cells: &[String; N]| {
        let padded: Vec<_> =
            cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push_str(padded.join("  ").trim_end());
        out.push('\n');
    };
    line(&head.map(str::to_owned));
    rows.iter().for_each(line);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["1".to_owned(), "north".to_owned()], ["20".to_owned(), "x".to_owned()]];
        assert_eq!(render(["ID", "ZONE"], &rows), "ID  ZONE\n1   north\n20  x\n");
    }
}
