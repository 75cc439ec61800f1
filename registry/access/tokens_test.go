package access

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func openTokens(t *testing.T, text string) *Tokens {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tokens")
	write(t, path, text)
	tokens, err := OpenTokens(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (t *Tokens) has(secret string) bool {
	_, _, ok := t.find(secret)
	return ok
}

// TestReread: a change of the file counts at once, also one that leaves its size and comes within the same moment.
func TestReread(t *testing.T) {
	tokens := openTokens(t, "# who may\n\nops "+secretAll+" all\n")
	other := strings.ToUpper(secretAll)
	for i, secret := range []string{other, secretAll, other, secretAll} {
		write(t, tokens.path, "ops "+secret+" all\n")
		if !tokens.has(secret) || tokens.has(strings.ToUpper(secret)) == (secret == secretAll) {
			t.Fatalf("change %d does not count", i)
		}
	}
	// By rename, as careful writers do it, and with the times of the former file.
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(tokens.path, old, old); err != nil {
		t.Fatal(err)
	}
	if !tokens.has(secretAll) || !tokens.state.settled {
		t.Fatal("a file that rests is not known")
	}
	fresh := tokens.path + ".new"
	write(t, fresh, "ops "+other+" all\n")
	if err := os.Chtimes(fresh, old, old); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(fresh, tokens.path); err != nil {
		t.Fatal(err)
	}
	if tokens.has(secretAll) || !tokens.has(other) {
		t.Error("a renamed file does not count")
	}
}

// TestRereadFaults: a line with a fault counts for nobody, the others for theirs; a file that is gone for nobody.
func TestRereadFaults(t *testing.T) {
	tokens := openTokens(t, "ops "+secretAll+"\n")
	write(t, tokens.path, "ops "+secretAll+" everything\nci "+secretInstances+"\n")
	if tokens.has(secretAll) || !tokens.has(secretInstances) {
		t.Error("not as the lines that are well say")
	}
	if err := os.Remove(tokens.path); err != nil {
		t.Fatal(err)
	}
	if tokens.has(secretInstances) {
		t.Error("a token of a file that is gone counts")
	}
	write(t, tokens.path, "ops "+secretAll+"\n")
	if !tokens.has(secretAll) {
		t.Error("a file that came back does not count")
	}
	if err := os.Chmod(tokens.path, 0o666); err != nil {
		t.Fatal(err)
	}
	write(t, tokens.path, "ops "+secretInstances+"\n")
	if tokens.has(secretInstances) || tokens.has(secretAll) {
		t.Error("a file that everybody writes counts")
	}
}

func TestTokenFaults(t *testing.T) {
	for text, want := range map[string]string{
		"ops":                                    "line 1: 1 words",
		"\nops short":                            "line 2: the token has 5 letters",
		"a b c d":                                "line 1: 4 words",
		"ops " + secretAll + " x":                "line 1: the scope is unknown: want all or instances",
		"ops " + secretAll + "\nci " + secretAll: "line 2: the token is that of line 1",
		secretAll + " ops":                       "line 1: the token has 3 letters",
		"ops " + secretInstances + " " + secretAll: "line 1: the scope is unknown",
		strings.Repeat("x", maxTokensFile+1):       "larger than",
	} {
		list, err := parseTokens([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), secretAll) {
			t.Errorf("%.40q: the error tells the token", text)
		}
		if len(list) > 1 {
			t.Errorf("%.40q: %d tokens", text, len(list))
		}
	}
	if _, err := OpenTokens(filepath.Join(t.TempDir(), "none"), nil); err == nil {
		t.Error("a file that is not there is opened")
	}
}

// FuzzTokens: whatever the file, what counts has a name, a scope and a line of its own, and no error tells a token.
func FuzzTokens(f *testing.F) {
	f.Add([]byte("ops " + secretAll + " all\n#\n\nci " + secretInstances + " instances"))
	f.Add([]byte("a b\x00\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := parseTokens(data)
		for _, k := range list {
			if k.name == "" || k.scope != ScopeAll && k.scope != ScopeInstances {
				t.Errorf("token %+v", k)
			}
		}
		if len(list) > strings.Count(string(data), "\n")+1 {
			t.Errorf("%d tokens", len(list))
		}
		if err != nil && strings.Contains(err.Error(), secretAll) {
			t.Errorf("told: %v", err)
		}
	})
}
