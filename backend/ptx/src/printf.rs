//! Device `printf`: reads the argument list the compiler laid out and formats it like C.
//!
//! Arguments lie one behind the other, each aligned to its size: 4 bytes for `int`, 8 for `long`,
//! pointers and `double` (to which `float` is promoted).

use crate::exec::{Cx, Fault, Intent};

/// Longest format or string argument, in bytes.
const MAX_STRING: usize = 32 << 10;

/// Longest output of one call, in bytes; the rest is dropped, as when the device's buffer is full.
const MAX_OUTPUT: usize = 1 << 20;

/// Longest width or precision honoured, so that one call cannot make unbounded output.
const MAX_FIELD: usize = 1024;

/// One conversion, e.g. `%-08.3lf`.
#[derive(Debug, Default, Clone)]
struct Field {
    left: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
    long: bool,
    short: u8,
    conversion: u8,
}

/// Formats one lane's call. Gives the text and the number of arguments consumed, or -1 where the
/// format is broken, as `vprintf` on the device does.
pub(crate) fn format(
    cx: &mut Cx<'_>,
    lane: usize,
    format: u64,
    list: u64,
) -> Result<(Vec<u8>, u32), Fault> {
    let text = cx.string(lane, format, MAX_STRING)?;
    let mut args = Args { at: list, count: 0 };
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.iter().copied().peekable();
    while let Some(c) = rest.next() {
        if out.len() > MAX_OUTPUT {
            break;
        }
        if c != b'%' {
            out.push(c);
            continue;
        }
        let mut field = Field::default();
        while let Some(c) = rest.peek() {
            match c {
                b'-' => field.left = true,
                b'+' => field.plus = true,
                b' ' => field.space = true,
                b'#' => field.alternate = true,
                b'0' => field.zero = true,
                _ => break,
            }
            rest.next();
        }
        field.width = number(&mut rest).unwrap_or(0);
        if rest.next_if_eq(&b'*').is_some() {
            let width = args.read(cx, lane, 4)? as u32 as i32;
            field.left |= width < 0;
            field.width = width.unsigned_abs() as usize;
        }
        if rest.next_if_eq(&b'.').is_some() {
            if rest.next_if_eq(&b'*').is_some() {
                field.precision = usize::try_from(args.read(cx, lane, 4)? as u32 as i32).ok();
            } else {
                field.precision = Some(number(&mut rest).unwrap_or(0));
            }
        }
        field.width = field.width.min(MAX_FIELD);
        field.precision = field.precision.map(|p| p.min(MAX_FIELD));
        while let Some(c) = rest.next_if(|c| matches!(c, b'l' | b'h' | b'z' | b't' | b'j' | b'L')) {
            if c == b'h' {
                field.short = field.short.saturating_add(1)
            } else {
                field.long = true
            }
        }
        let Some(conversion) = rest.next() else {
            return Ok((out, u32::MAX));
        };
        field.conversion = conversion;
        match conversion {
            b'%' => out.push(b'%'),
            b'd' | b'i' | b'u' | b'x' | b'X' | b'o' | b'c' => {
                let value = args.read(cx, lane, if field.long { 8 } else { 4 })?;
                out.extend(field.integer(value));
            }
            b'p' => {
                let value = args.read(cx, lane, 8)?;
                out.extend(field.pad(Vec::new(), format!("{value:#x}").into_bytes()));
            }
            b'f' | b'F' | b'e' | b'E' | b'g' | b'G' | b'a' | b'A' => {
                let value = f64::from_bits(args.read(cx, lane, 8)?);
                out.extend(field.float(value));
            }
            b's' => {
                let address = args.read(cx, lane, 8)?;
                let limit = field.precision.unwrap_or(MAX_STRING);
                let bytes = if address == 0 {
                    b"(null)".to_vec()
                } else {
                    cx.string(lane, address, limit)?
                };
                out.extend(field.pad(Vec::new(), bytes));
            }
            other => out.extend([b'%', other]),
        }
    }
    Ok((out, args.count))
}

fn number(rest: &mut std::iter::Peekable<impl Iterator<Item = u8>>) -> Option<usize> {
    let mut value = None;
    while let Some(digit) = rest.next_if(u8::is_ascii_digit) {
        value = Some(
            value
                .unwrap_or(0usize)
                .saturating_mul(10)
                .saturating_add(usize::from(digit - b'0')),
        );
    }
    value
}

struct Args {
    at: u64,
    count: u32,
}

impl Args {
    fn read(&mut self, cx: &mut Cx<'_>, lane: usize, size: u32) -> Result<u64, Fault> {
        self.at = self.at.wrapping_add(u64::from(size) - 1) & !(u64::from(size) - 1);
        let place = cx.place(lane, self.at, size, Intent::Read)?;
        self.at = self.at.wrapping_add(u64::from(size));
        self.count += 1;
        Ok(if size == 4 {
            u64::from(place.load::<u32>(lane, 0))
        } else {
            place.load::<u64>(lane, 0)
        })
    }
}

impl Field {
    /// Puts sign or prefix and digits into the field's width.
    fn pad(&self, prefix: Vec<u8>, body: Vec<u8>) -> Vec<u8> {
        let fill = self.width.saturating_sub(prefix.len() + body.len());
        let mut out = Vec::new();
        if self.left {
            out.extend(prefix);
            out.extend(body);
            out.extend(std::iter::repeat_n(b' ', fill));
        } else if self.zero && self.conversion != b's' && self.conversion != b'p' {
            out.extend(prefix);
            out.extend(std::iter::repeat_n(b'0', fill));
            out.extend(body);
        } else {
            out.extend(std::iter::repeat_n(b' ', fill));
            out.extend(prefix);
            out.extend(body);
        }
        out
    }

    fn sign(&self, negative: bool) -> Vec<u8> {
        match (negative, self.plus, self.space) {
            (true, _, _) => b"-".to_vec(),
            (_, true, _) => b"+".to_vec(),
            (_, _, true) => b" ".to_vec(),
            _ => Vec::new(),
        }
    }

    fn integer(&self, raw: u64) -> Vec<u8> {
        if self.conversion == b'c' {
            return Field {
                zero: false,
                ..self.clone()
            }
            .pad(Vec::new(), vec![raw as u8]);
        }
        let signed = matches!(self.conversion, b'd' | b'i');
        let value: i128 = match (signed, self.long, self.short) {
            (true, true, _) => i128::from(raw as i64),
            (true, _, 0) => i128::from(raw as i32),
            (true, _, 1) => i128::from(raw as i16),
            (true, ..) => i128::from(raw as i8),
            (false, true, _) => i128::from(raw),
            (false, _, 0) => i128::from(raw as u32),
            (false, _, 1) => i128::from(raw as u16),
            (false, ..) => i128::from(raw as u8),
        };
        let magnitude = value.unsigned_abs();
        let mut digits = match self.conversion {
            b'x' => format!("{magnitude:x}"),
            b'X' => format!("{magnitude:X}"),
            b'o' => format!("{magnitude:o}"),
            _ => magnitude.to_string(),
        };
        if let Some(precision) = self.precision {
            digits = if precision == 0 && magnitude == 0 {
                String::new()
            } else {
                format!("{digits:0>precision$}")
            };
        }
        let prefix = match self.conversion {
            b'x' if self.alternate && magnitude != 0 => b"0x".to_vec(),
            b'X' if self.alternate && magnitude != 0 => b"0X".to_vec(),
            b'o' if self.alternate && !digits.starts_with('0') => b"0".to_vec(),
            b'd' | b'i' => self.sign(value < 0),
            _ => Vec::new(),
        };
        // A precision switches zero filling off.
        Field {
            zero: self.zero && self.precision.is_none(),
            ..self.clone()
        }
        .pad(prefix, digits.into_bytes())
    }

    fn float(&self, value: f64) -> Vec<u8> {
        let sign = self.sign(value.is_sign_negative());
        let magnitude = value.abs();
        let upper = self.conversion.is_ascii_uppercase();
        if !magnitude.is_finite() {
            let text = match (magnitude.is_nan(), upper) {
                (true, false) => "nan",
                (true, true) => "NAN",
                (false, false) => "inf",
                (false, true) => "INF",
            };
            return Field {
                zero: false,
                ..self.clone()
            }
            .pad(sign, text.as_bytes().to_vec());
        }
        let precision = self.precision.unwrap_or(6);
        let text = match self.conversion.to_ascii_lowercase() {
            b'f' => with_point(format!("{magnitude:.precision$}"), self.alternate),
            b'e' => exponential(magnitude, precision, self.alternate),
            b'g' => general(magnitude, precision, self.alternate),
            _ => hexadecimal(magnitude, self.precision),
        };
        let text = if upper {
            text.to_ascii_uppercase()
        } else {
            text
        };
        self.pad(sign, text.into_bytes())
    }
}

fn with_point(text: String, always: bool) -> String {
    if always && !text.contains('.') {
        text + "."
    } else {
        text
    }
}

/// `1.5e+00`: C wants a sign and two digits in the exponent.
fn exponential(value: f64, precision: usize, point: bool) -> String {
    let text = format!("{value:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!(
        "{}e{sign}{:02}",
        with_point(digits.to_string(), point),
        exponent.unsigned_abs()
    )
}

/// `%g`: the shorter of the two, with trailing zeros removed.
fn general(value: f64, precision: usize, keep: bool) -> String {
    let precision = precision.max(1);
    let scientific = exponential(value, precision - 1, keep);
    let exponent: i32 = scientific
        .split_once('e')
        .and_then(|(_, e)| e.parse().ok())
        .unwrap_or(0);
    if value != 0.0 && (exponent < -4 || exponent >= precision as i32) {
        let (digits, tail) = scientific.split_once('e').unwrap_or((&scientific, "+00"));
        return format!("{}e{tail}", trim(digits, keep));
    }
    let decimals = usize::try_from(precision as i32 - 1 - exponent).unwrap_or(0);
    trim(&with_point(format!("{value:.decimals$}"), keep), keep)
}

fn trim(digits: &str, keep: bool) -> String {
    if keep || !digits.contains('.') {
        return digits.to_string();
    }
    digits
        .trim_end_matches('0')
        .trim_end_matches('.')
        .to_string()
}

/// `%a`: `0x1.8p+0`.
fn hexadecimal(value: f64, precision: Option<usize>) -> String {
    let bits = value.to_bits();
    let mut exponent = (bits >> 52 & 0x7ff) as i32;
    let mut fraction = bits & 0xf_ffff_ffff_ffff;
    let mut lead = u64::from(exponent != 0);
    exponent = if value == 0.0 {
        0
    } else {
        exponent.max(1) - 1023
    };
    if let Some(p) = precision.filter(|p| *p < 13) {
        let drop = 4 * (13 - p as u32);
        let whole = lead << 52 | fraction;
        let half = 1u64 << (drop - 1);
        let odd = whole >> drop & 1;
        let rounded = (whole + half - 1 + odd) >> drop << drop;
        (lead, fraction) = (rounded >> 52, rounded & 0xf_ffff_ffff_ffff);
    }
    let digits = format!("{fraction:013x}");
    let digits = match precision {
        Some(p) if p <= 13 => digits.get(..p).unwrap_or("").to_string(),
        Some(p) => format!("{digits:0<p$}"),
        None => digits.trim_end_matches('0').to_string(),
    };
    let point = if digits.is_empty() { "" } else { "." };
    format!("0x{lead:x}{point}{digits}p{exponent:+}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(conversion: u8) -> Field {
        Field {
            conversion,
            ..Field::default()
        }
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn integers_as_in_c() {
        assert_eq!(text(field(b'd').integer(u64::from(u32::MAX))), "-1");
        assert_eq!(
            text(
                Field {
                    long: true,
                    ..field(b'u')
                }
                .integer(u64::MAX)
            ),
            "18446744073709551615"
        );
        assert_eq!(
            text(
                Field {
                    width: 6,
                    zero: true,
                    ..field(b'd')
                }
                .integer(-42i64 as u64)
            ),
            "-00042"
        );
        assert_eq!(
            text(
                Field {
                    width: 6,
                    left: true,
                    ..field(b'x')
                }
                .integer(255)
            ),
            "ff    "
        );
        assert_eq!(
            text(
                Field {
                    alternate: true,
                    ..field(b'X')
                }
                .integer(255)
            ),
            "0XFF"
        );
        assert_eq!(
            text(
                Field {
                    precision: Some(3),
                    plus: true,
                    ..field(b'i')
                }
                .integer(7)
            ),
            "+007"
        );
        assert_eq!(text(field(b'c').integer(65)), "A");
    }

    #[test]
    fn floats_as_in_c() {
        assert_eq!(text(field(b'f').float(1.5)), "1.500000");
        assert_eq!(
            text(
                Field {
                    precision: Some(2),
                    width: 8,
                    ..field(b'f')
                }
                .float(-1.005)
            ),
            "   -1.00"
        );
        assert_eq!(text(field(b'e').float(12345.678)), "1.234568e+04");
        assert_eq!(text(field(b'g').float(0.0001)), "0.0001");
        assert_eq!(text(field(b'g').float(0.00001)), "1e-05");
        assert_eq!(text(field(b'g').float(1e6)), "1e+06");
        assert_eq!(text(field(b'g').float(100000.0)), "100000");
        assert_eq!(text(field(b'G').float(f64::INFINITY)), "INF");
        assert_eq!(text(field(b'a').float(1.5)), "0x1.8p+0");
        assert_eq!(
            text(
                Field {
                    precision: Some(1),
                    ..field(b'a')
                }
                .float(1.999)
            ),
            "0x2.0p+0"
        );
        assert_eq!(text(field(b'f').float(-f64::NAN)), "-nan");
    }
}
