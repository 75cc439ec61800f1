package access

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// Scope is what a token's holder may write.
type Scope uint8

const (
	scopeNone Scope = iota
	// ScopeInstances is instances of all services, whatever their addresses.
	ScopeInstances
	// ScopeAll is everything.
	ScopeAll
)

// The limits of a file of tokens.
const (
	MinToken      = 16 // letters of a token: fewer can be guessed
	maxTokens     = 4096
	maxTokensFile = 1 << 20 // bytes
	// settledAfter is for how long after its last change a file is read at each use: a second change may come
	// within the same tick of the filesystem's clock.
	settledAfter = time.Second
)

// Tokens are those of a file, which is read again when it changes. A line is NAME TOKEN [SCOPE]; the scope is all,
// which is the default, or instances. Empty lines and those that begin with # mean nothing. Tokens may be used
// concurrently.
type Tokens struct {
	path string
	log  *slog.Logger

	mu    sync.Mutex
	list  []token
	state fileState
	fault string // that was logged last
}

type token struct {
	name  string
	sum   [sha256.Size]byte // of the secret, so that all are compared in the same time
	scope Scope
}

// fileState tells one content of a file from another.
type fileState struct {
	info    os.FileInfo
	settled bool // it had not changed for a while when it was read
}

func stateOf(info os.FileInfo, now time.Time) fileState {
	return fileState{info: info, settled: now.Sub(info.ModTime()) > settledAfter}
}

// same reports whether a file surely has the content that it had.
func (s fileState) same(now os.FileInfo) bool {
	return s.settled && os.SameFile(s.info, now) && s.info.ModTime().Equal(now.ModTime()) && s.info.Size() == now.Size()
}

// OpenTokens reads a file of tokens. What is wrong with it later, when it has changed, is logged: a line with a
// fault counts for nobody then, and so does a file that cannot be read.
func OpenTokens(path string, log *slog.Logger) (*Tokens, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	t := &Tokens{path: path, log: log}
	if err := t.load(time.Now()); err != nil {
		return nil, err
	}
	return t, nil
}

// find returns whose token a secret is. The time it takes does not tell how much of a secret was right.
func (t *Tokens) find(secret string) (name string, scope Scope, ok bool) {
	if t == nil || secret == "" {
		return "", scopeNone, false
	}
	sum := sha256.Sum256([]byte(secret))
	for _, k := range t.current() {
		if subtle.ConstantTimeCompare(sum[:], k.sum[:]) == 1 {
			name, scope, ok = k.name, k.scope, true
		}
	}
	return name, scope, ok
}

// current returns the tokens that the file has now.
func (t *Tokens) current() []token {
	t.mu.Lock()
	defer t.mu.Unlock()
	info, err := os.Stat(t.path)
	if err == nil && t.state.same(info) {
		return t.list
	}
	err = t.load(time.Now())
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != t.fault && err != nil {
		t.log.Error("the tokens' file has faults", "error", err)
	}
	t.fault = text
	return t.list
}

// load reads the file; the lines without faults count also when others have some.
func (t *Tokens) load(now time.Time) error {
	t.list, t.state = nil, fileState{}
	f, err := os.Open(t.path)
	if err != nil {
		return fmt.Errorf("read tokens: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read tokens: %w", err)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("read tokens: %s can be written by others than its owner (mode %v): want 0600", t.path, info.Mode().Perm())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxTokensFile+1))
	if err != nil {
		return fmt.Errorf("read tokens: %w", err)
	}
	t.list, err = parseTokens(data)
	t.state = stateOf(info, now)
	if err != nil {
		return fmt.Errorf("read tokens: %s: %w", t.path, err)
	}
	return nil
}

// parseTokens reads the lines of a file. It returns those that are well with an error for the others; the error
// never holds a word of the file:
// whoever mixes up their order should not find the token in a log.
func parseTokens(data []byte) ([]token, error) {
	if len(data) > maxTokensFile {
		return nil, fmt.Errorf("larger than %d bytes", maxTokensFile)
	}
	var list []token
	var errs []error
	lineOf := map[[sha256.Size]byte]int{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, maxTokensFile+1)
	for number := 1; lines.Scan(); number++ {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		k, err := parseToken(fields)
		other, twice := lineOf[k.sum]
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("line %d: %w", number, err))
		case twice:
			errs = append(errs, fmt.Errorf("line %d: the token is that of line %d", number, other))
		case len(list) == maxTokens:
			errs = append(errs, fmt.Errorf("line %d: more than %d tokens", number, maxTokens))
			return list, errors.Join(errs...)
		default:
			lineOf[k.sum] = number
			list = append(list, k)
		}
	}
	return list, errors.Join(append(errs, lines.Err())...)
}

func parseToken(fields []string) (k token, err error) {
	if len(fields) < 2 || len(fields) > 3 {
		return k, fmt.Errorf("%d words: want NAME TOKEN [SCOPE]", len(fields))
	}
	k = token{name: fields[0], sum: sha256.Sum256([]byte(fields[1])), scope: ScopeAll}
	if len(fields[1]) < MinToken {
		return k, fmt.Errorf("the token has %d letters: want at least %d", len(fields[1]), MinToken)
	}
	if len(fields) == 3 {
		switch fields[2] {
		case "all":
		case "instances":
			k.scope = ScopeInstances
		default:
			return k, errors.New("the scope is unknown: want all or instances")
		}
	}
	return k, nil
}
