//! What shows nothing when it is shown.

/// Whether no character of `text` leaves a mark: white space, control characters, and what Unicode lets a display
/// ignore. True of an empty text.
#[must_use]
pub fn is_blank(text: &str) -> bool {
    text.chars().all(is_invisible)
}

/// The ranges are Default_Ignorable_Code_Point of Unicode 16 (DerivedCoreProperties.txt), and two that are not in it: the
/// marks around an annotation and the Braille pattern without a dot.
fn is_invisible(c: char) -> bool {
    // What nearly every title begins with.
    if c.is_ascii_graphic() {
        return false;
    }
    c.is_whitespace()
        || c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_shows_nothing_is_blank() {
        for text in
            ["", " ", " \t\n", "\u{3000}", "\u{1}", "\u{200b}", "\u{200b}\u{200d}\u{feff}", "\u{ad}", "\u{2060}"]
        {
            assert!(is_blank(text), "{text:?}");
        }
        for text in
            ["\u{3164}", "\u{115f}\u{1160}", "\u{ffa0}", "\u{2800}", "\u{202e} ", "\u{fe0f}", "\u{e0061}\u{e007f}"]
        {
            assert!(is_blank(text), "{text:?}");
        }
        // Joined emoji, a flag, directions around a word, and formats that are drawn.
        for text in
            ["x", "\u{200b}x", "é", "\u{0}x", "👩\u{200d}🚀", "🇪🇺", "\u{2068}a\u{2069}", "\u{6dd}", "0", "-", "\u{301}"]
        {
            assert!(!is_blank(text), "{text:?}");
        }
    }
}
