//! Amounts as Kubernetes writes them: `100m`, `1.5`, `128Mi`, `2e3`. Source: the grammar in
//! `k8s.io/apimachinery/pkg/api/resource`.

/// Thousandths of one; of a fraction finer than that, what is whole. `None` if it is no amount.
pub(super) fn milli(text: &str) -> Option<i128> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && !"+-.".contains(c))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(end)?;
    let (power, is_binary): (i32, bool) = match suffix {
        "" => (0, false),
        "n" => (-9, false),
        "u" => (-6, false),
        "m" => (-3, false),
        "k" => (3, false),
        "M" => (6, false),
        "G" => (9, false),
        "T" => (12, false),
        "P" => (15, false),
        "E" => (18, false),
        "Ki" => (1, true),
        "Mi" => (2, true),
        "Gi" => (3, true),
        "Ti" => (4, true),
        "Pi" => (5, true),
        "Ei" => (6, true),
        other => (other.strip_prefix(['e', 'E'])?.parse().ok()?, false),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = |by: u32| 10_i128.checked_pow(by);
    let places = u32::try_from(fraction.len()).ok()?;
    let thousand = digits.checked_mul(1000)?;
    let (times, divided) = match is_binary {
        true => (1024_i128.checked_pow(u32::try_from(power).ok()?)?, 1),
        false if power < 0 => (1, scale(power.unsigned_abs())?),
        false => (scale(power.unsigned_abs())?, 1),
    };
    Some(thousand.checked_mul(times)? / divided.checked_mul(scale(places)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_kubernetes_does() {
        for (text, expected) in [
            ("0", Some(0)),
            ("3", Some(3_000)),
            ("50m", Some(50)),
            ("0.5", Some(500)),
            ("1.5k", Some(1_500_000)),
            ("2e3", Some(2_000_000)),
            ("1e-2", Some(10)),
            ("-1", Some(-1_000)),
            ("1Ki", Some(1_024_000)),
            ("0.5Ki", Some(512_000)),
            ("100n", Some(0)),
            ("", None),
            ("1Xi", None),
            ("m", None),
            ("1e999", None),
            ("\u{e9}", None),
        ] {
            assert_eq!(milli(text), expected, "{text}");
        }
    }
}
