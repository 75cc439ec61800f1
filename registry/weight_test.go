package registry

import "testing"

func TestParseWeight(t *testing.T) {
	for text, want := range map[string]uint16{"0": 0, "1": 1, "007": 7, "256": 256} {
		if got, err := ParseWeight(text); err != nil || got != want {
			t.Errorf("%q is %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "257", "-1", "+1", "1.5", "0x10", "many", "65537", "99999999999999999999"} {
		if got, err := ParseWeight(text); err == nil {
			t.Errorf("%q is %d, want an error", text, got)
		}
	}
}
