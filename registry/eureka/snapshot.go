package eureka

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-net/sluice/registry/eureka/wire"
)

const (
	// maxAnswers and maxAnswerBytes bound what answers about parts of the registry are kept of one version.
	maxAnswers     = 1024
	maxAnswerBytes = 16 << 20
	// idleForm is after how long without a request for it a form of the whole registry is not kept any more.
	idleForm = 5 * time.Minute
)

// snapshot is what is told of at one version, with the answers that it was written as.
type snapshot struct {
	version       int64
	hash          string
	full, changes []*page

	mu      sync.Mutex // guards what follows
	whole   [2][forms]*body
	answers map[question]*body
	bytes   int // of answers
}

// question is what is asked about a part of the registry.
type question struct {
	kind queryKind
	name string
	form form
}

type queryKind uint8

const (
	askApp queryKind = iota
	askVIP
	askSecureVIP
)

// snapshot returns what is told of now, or nil before anything is known.
func (v *view) snapshot() *snapshot {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.synced {
		return nil
	}
	v.purge()
	if v.shot == nil {
		v.shot = &snapshot{
			version: v.version, hash: v.counts.Hash(),
			full: slices.Clone(v.listed.pages), changes: slices.Clone(v.recent.book.pages),
			answers: map[question]*body{},
		}
	}
	return v.shot
}

// entries returns those that a question is about.
func (v *view) entries(q question) []*entry {
	v.mu.Lock()
	defer v.mu.Unlock()
	if q.kind == askApp {
		return v.listed.app(q.name)
	}
	var list []*entry
	for k := range v.vips[q.kind-askVIP][q.name] {
		list = append(list, v.listed.get(k))
	}
	slices.SortFunc(list, func(a, b *entry) int { return a.compare(b.key) })
	return list
}

// writer writes answers and counts the work.
type writer struct {
	view  *view
	used  [2][forms]atomic.Int64 // when a form of the registry, or of the delta, was last asked for; nanoseconds since 1970
	pages atomic.Uint64          // that were written
}

// all returns the whole registry, or the changes, in one form; nil: not known yet.
func (w *writer) all(changes bool, f form) *body {
	s := w.view.snapshot()
	if s == nil {
		return nil
	}
	n, pages, version := 0, s.full, int64(wire.VersionFull)
	if changes {
		n, pages, version = 1, s.changes, s.version
	}
	w.used[n][f].Store(w.view.now().UnixNano())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.whole[n][f] == nil {
		last := ""
		if len(pages) > 0 {
			p := pages[len(pages)-1]
			last = p.entries[len(p.entries)-1].app
		}
		head := newChunk(f.format().AppendHead(nil, version, s.hash), f.gzip())
		tail := newChunk(f.format().AppendTail(nil, last), f.gzip())
		body := write(pages, f, func() { w.pages.Add(1) })
		s.whole[n][f] = newBody(slices.Concat([]chunk{head}, body, []chunk{tail}), f.gzip())
	}
	return s.whole[n][f]
}

// part returns an application, or the instances that have a VIP name; nil: not known, or there is no such application.
func (w *writer) part(q question) *body {
	s := w.view.snapshot()
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.answers[q]; b != nil {
		return b
	}
	entries := w.view.entries(q)
	if q.kind == askApp && len(entries) == 0 {
		return nil
	}
	list := make([]*wire.Instance, len(entries))
	counts := wire.Counts{}
	for i, e := range entries {
		list[i] = e.now()
		counts[list[i].Status]++
	}
	var text []byte
	if q.kind == askApp {
		text = q.form.format().AppendApplication(nil, strings.Clone(q.name), list)
	} else {
		text = q.form.format().AppendApplications(nil, &wire.Applications{Version: wire.VersionLookup, Hash: counts.Hash(), Instances: list})
	}
	b := newBody([]chunk{newChunk(text, q.form.gzip())}, q.form.gzip())
	if size := b.length(); len(s.answers) < maxAnswers && s.bytes+size <= maxAnswerBytes {
		s.answers[q] = b
		s.bytes += size
	}
	return b
}

// sweep forgets forms that nobody has asked for lately.
func (w *writer) sweep() {
	s := w.view.snapshot()
	if s == nil {
		return
	}
	before := w.view.now().Add(-idleForm).UnixNano()
	for n, pages := range [][]*page{s.full, s.changes} {
		for f := range form(forms) {
			if used := w.used[n][f].Load(); used == 0 || used > before {
				continue
			}
			w.used[n][f].Store(0)
			s.mu.Lock()
			s.whole[n][f] = nil
			s.mu.Unlock()
			for _, p := range pages {
				p.forget(f)
			}
		}
	}
}
