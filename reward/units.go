package reward

import "strings"

// unitWords are the units that are told apart, by the ways in which they are written. 5 cm is not 5 m; any other word
// behind a number is passed over.
var unitWords = map[string]string{
	"mm": "mm", "millimeter": "mm", "millimetre": "mm", "cm": "cm", "centimeter": "cm", "centimetre": "cm", "m": "m", "meter": "m", "metre": "m",
	"km": "km", "kilometer": "km", "kilometre": "km", "in": "in", "inch": "in", "inche": "in", "ft": "ft", "foot": "ft", "feet": "ft", "yd": "yd", "yard": "yd",
	"mi": "mi", "mile": "mi", "mg": "mg", "milligram": "mg", "g": "g", "gram": "g", "kg": "kg", "kilogram": "kg", "lb": "lb", "pound": "lb",
	"ml": "ml", "milliliter": "ml", "l": "l", "liter": "l", "litre": "l", "s": "s", "sec": "s", "second": "s", "min": "min", "minute": "min",
	"h": "h", "hr": "h", "hour": "h", "day": "day", "week": "week", "month": "month", "year": "year", "cent": "cent", "dollar": "dollar",
	"degree": "degree", "radian": "rad", "rad": "rad", "mph": "mph", "kph": "kph",
	"am": "am", "pm": "pm", "c": "celsius", "celsius": "celsius", "f": "fahrenheit", "fahrenheit": "fahrenheit",
}

// otherUnits are words that are units and no product of letters, though nothing is known of them.
var otherUnits = map[string]bool{
	"hz": true, "pa": true, "kpa": true, "mol": true, "ev": true, "nm": true, "oz": true, "gal": true, "sq": true, "cu": true, "deg": true,
	"units": true, "unit": true, "rs": true, "pct": true, "percent": true, "percentage": true, "km/h": true, "kmh": true, "usd": true, "eur": true,
}

// isUnitWord reports whether word, in lower case, is a unit.
func isUnitWord(word string) bool {
	return unitWords[word] != "" || unitWords[strings.TrimSuffix(word, "s")] != "" || otherUnits[word] || otherUnits[strings.TrimSuffix(word, "s")]
}

// isUnitProduct reports whether s is units with powers and signs between them.
func isUnitProduct(s string) bool {
	if !strings.ContainsAny(s, `\^/`) {
		return false
	}
	s = strings.ReplaceAll(s, `\cdot`, "")
	return strings.Trim(s, `\, ~;^{}-/0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ`) == "" &&
		isASCIILetter(s[0]) && words(s, func(w string) bool { return isUnitWord(strings.ToLower(w)) })
}

// magnitude takes the word that scales a number off a phrase: "million dollars" is 6 and "dollars".
func magnitude(phrase string) (power int, rest string) {
	if power, rest, ok := scanMagnitude(strings.ToLower(phrase)); ok {
		return power, rest
	}
	return 0, phrase
}

var unitTypography = strings.NewReplacer("/", " per ", ".", "") // m/s, a.m.

// unitOf returns the known unit that a phrase such as "square centimeters" or "cm ^2" names, its power included, or "".
func unitOf(phrase string) string {
	known, power := "", ""
	for word := range strings.FieldsFuncSeq(unitTypography.Replace(strings.ToLower(phrase)), func(r rune) bool { return !('a' <= r && r <= 'z') && r != '^' && !('0' <= r && r <= '9') }) {
		switch {
		case word == "square" || word == "sq" || word == "squared":
			power = "^2"
		case word == "cubic" || word == "cu" || word == "cubed":
			power = "^3"
		case word[0] == '^':
			power = word
		case unitWords[word] != "":
			known += unitWords[word]
		case unitWords[strings.TrimSuffix(word, "s")] != "":
			known += unitWords[strings.TrimSuffix(word, "s")]
		case word == "per":
			known += "/"
		default:
			return ""
		}
	}
	if known == "mi/h" {
		return "mph"
	}
	if temperature, ok := strings.CutPrefix(known, "degree"); ok && temperature != "" {
		return temperature
	}
	return known + power
}
