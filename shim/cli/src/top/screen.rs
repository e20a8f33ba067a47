//! The live view.

use super::Looks;
use super::table::{HEADS, Row, WIDTHS};
use anyhow::Result;
use ratatui::Frame;
use ratatui::crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers, poll, read};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Row as Cells, Table};
use std::time::{Duration, Instant};

/// Shows the table until `q`, Escape or Ctrl-C.
///
/// # Errors
/// The terminal's.
pub fn run(mut looks: Looks, interval: Duration) -> Result<()> {
    let mut terminal = ratatui::try_init()?;
    let outcome = loop {
        let rows = looks.rows();
        if let Err(error) = terminal.draw(|frame| draw(frame, &rows)) {
            break Err(error.into());
        }
        match wait(interval) {
            Ok(true) => looks.look(),
            Ok(false) => break Ok(()),
            Err(error) => break Err(error.into()),
        }
    };
    ratatui::try_restore()?;
    outcome
}

/// Waits for the next look; `false` when it is enough.
fn wait(interval: Duration) -> std::io::Result<bool> {
    let until = Instant::now() + interval;
    while poll(until.saturating_duration_since(Instant::now()))? {
        let Event::Key(key) = read()? else {
            // Another size: drawn at once.
            return Ok(true);
        };
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let ends = match key.code {
            KeyCode::Char('q') | KeyCode::Esc => true,
            KeyCode::Char('c') => control,
            _ => false,
        };
        if ends && key.kind == KeyEventKind::Press {
            return Ok(false);
        }
    }
    Ok(true)
}

fn draw(frame: &mut Frame<'_>, rows: &[Row]) {
    let [head, body] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(frame.area());
    let title = format!(
        "vgpu top: {} clients; q ends, red: context lost",
        rows.len()
    );
    frame.render_widget(Line::from(title), head);
    let cells = rows.iter().map(|row| {
        let style = if row.lost {
            Style::new().fg(Color::Red)
        } else {
            Style::new()
        };
        Cells::new(row.cells.clone()).style(style)
    });
    let heads = Cells::new(HEADS).style(Style::new().add_modifier(Modifier::REVERSED));
    let table = Table::new(cells, WIDTHS.map(Constraint::Length)).header(heads);
    frame.render_widget(table, body);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    #[test]
    fn any_size_of_terminal_is_drawn() {
        for (width, height) in [(1, 1), (20, 3), (200, 50)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
            terminal.draw(|frame| draw(frame, &[])).expect("drawn");
        }
    }
}
