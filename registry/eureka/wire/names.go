package wire

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Names of elements come from keys of metadata, which may hold what XML's names may not. XStream, with which the
// reference writes XML, doubles an underscore, writes a dollar as _- and anything else as _. and four hexadecimal digits
// for each UTF-16 unit.

// escapeName makes a name of an element of a key.
func escapeName(key string) string {
	if plainName(key) {
		return key
	}
	var b strings.Builder
	for at, r := range key {
		switch {
		case r == '_':
			b.WriteString("__")
		case r == '$':
			b.WriteString("_-")
		case nameRune(r, at == 0):
			b.WriteRune(r)
		default:
			for _, unit := range utf16.AppendRune(nil, r) {
				fmt.Fprintf(&b, "_.%04x", unit)
			}
		}
	}
	return b.String()
}

// plainName reports that nothing of a name needs to be escaped. Most keys are like that.
func plainName(key string) bool {
	for at := range len(key) {
		c := key[at]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (at == 0 || !(c >= '0' && c <= '9' || c == '-' || c == '.')) {
			return false
		}
	}
	return true
}

// nameRune reports whether XML 1.0, 2.3 allows a rune in a name. A colon is allowed there, but would name a namespace.
func nameRune(r rune, first bool) bool {
	in := func(lo, hi rune) bool { return r >= lo && r <= hi }
	if in('a', 'z') || in('A', 'Z') || in(0xc0, 0xd6) || in(0xd8, 0xf6) || in(0xf8, 0x2ff) || in(0x370, 0x37d) ||
		in(0x37f, 0x1fff) || in(0x200c, 0x200d) || in(0x2070, 0x218f) || in(0x2c00, 0x2fef) || in(0x3001, 0xd7ff) ||
		in(0xf900, 0xfdcf) || in(0xfdf0, 0xfffc) {
		return true
	}
	return !first && (in('0', '9') || r == '-' || r == '.' || r == 0xb7 || in(0x300, 0x36f) || in(0x203f, 0x2040))
}

// unescapeName reverses escapeName. An underscore that begins none of the escapes stays: not all who write XML know them.
func unescapeName(name string) string {
	if !strings.Contains(name, "_") {
		return name
	}
	var b strings.Builder
	var units []uint16 // of escapes that follow each other: two may be one rune
	flush := func() {
		b.WriteString(string(utf16.Decode(units)))
		units = units[:0]
	}
	for name != "" {
		if unit, ok := escapedUnit(name); ok {
			units = append(units, unit)
			name = name[len("_.0000"):]
			continue
		}
		flush()
		switch {
		case strings.HasPrefix(name, "__"):
			b.WriteByte('_')
			name = name[2:]
		case strings.HasPrefix(name, "_-"):
			b.WriteByte('$')
			name = name[2:]
		default:
			_, size := utf8.DecodeRuneInString(name)
			b.WriteString(name[:size])
			name = name[size:]
		}
	}
	flush()
	return b.String()
}

func escapedUnit(name string) (uint16, bool) {
	if len(name) < len("_.0000") || !strings.HasPrefix(name, "_.") {
		return 0, false
	}
	unit, err := strconv.ParseUint(name[2:6], 16, 16)
	return uint16(unit), err == nil
}
