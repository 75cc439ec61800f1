package eureka

import (
	"cmp"
	"slices"
	"sync"

	"github.com/sluice-net/sluice/registry/eureka/wire"
)

// maxPage is how many instances are written anew when one of them changes.
const maxPage = 64

// book is a set of entries in order of application and id, in pages of which each keeps what it was written as. Its
// methods are not for concurrent use; a page never changes, and may be read by anybody.
type book struct {
	pages []*page
	count int
}

// page is never empty.
type page struct {
	entries []*entry

	mu      sync.Mutex // guards what follows
	written [forms]*writtenPage
}

// writtenPage is a page in one form. follows says what stands before it, on which its beginning depends.
type writtenPage struct {
	chunk
	follows following
}

// following is how a page goes on from the one before.
type following uint8

const (
	nothing following = iota // it is the first
	another                  // the application of the page before has ended
	same                     // it has not
)

// form is a format, compressed or not.
type form uint8

const forms = 8

func formOf(f wire.Format, gzip bool) form {
	var n form
	for at, set := range []bool{f.XML, f.Compact, gzip} {
		if set {
			n |= 1 << at
		}
	}
	return n
}

func (f form) format() wire.Format { return wire.Format{XML: f&1 != 0, Compact: f&2 != 0} }
func (f form) gzip() bool          { return f&4 != 0 }

// find returns the page that a key is on or would be put on, and where on it.
func (b *book) find(k key) (at, index int, found bool) {
	at, found = slices.BinarySearchFunc(b.pages, k, func(p *page, k key) int { return p.entries[0].compare(k) })
	if found {
		return at, 0, true
	}
	if at == 0 {
		return 0, 0, false
	}
	at--
	index, found = slices.BinarySearchFunc(b.pages[at].entries, k, (*entry).compare)
	return at, index, found
}

// put adds an entry, or replaces the one of its key, which it returns.
func (b *book) put(e *entry) (old *entry) {
	if len(b.pages) == 0 {
		b.pages = []*page{{entries: []*entry{e}}}
		b.count = 1
		return nil
	}
	at, index, found := b.find(e.key)
	entries := slices.Clone(b.pages[at].entries)
	if found {
		old, entries[index] = entries[index], e
		b.pages[at] = &page{entries: entries}
		return old
	}
	b.count++
	entries = slices.Insert(entries, index, e)
	if len(entries) <= maxPage {
		b.pages[at] = &page{entries: entries}
		return nil
	}
	half := len(entries) / 2
	if at == len(b.pages)-1 && index == len(entries)-1 {
		half = index // they come in order
	}
	b.pages[at] = &page{entries: slices.Clone(entries[:half])}
	b.pages = slices.Insert(b.pages, at+1, &page{entries: slices.Clone(entries[half:])})
	return nil
}

// remove takes the entry of a key out and returns it.
func (b *book) remove(k key) (old *entry) {
	at, index, found := b.find(k)
	if !found {
		return nil
	}
	b.count--
	entries := b.pages[at].entries
	old = entries[index]
	if len(entries) == 1 {
		b.pages = slices.Delete(b.pages, at, at+1)
		return old
	}
	entries = slices.Concat(entries[:index], entries[index+1:])
	if at+1 < len(b.pages) && len(entries)+len(b.pages[at+1].entries) <= maxPage/2 {
		entries = slices.Concat(entries, b.pages[at+1].entries)
		b.pages = slices.Delete(b.pages, at+1, at+2)
	}
	b.pages[at] = &page{entries: entries}
	return old
}

// get returns the entry of a key, or nil.
func (b *book) get(k key) *entry {
	at, index, found := b.find(k)
	if !found {
		return nil
	}
	return b.pages[at].entries[index]
}

// app returns the entries of one application.
func (b *book) app(name string) []*entry {
	var list []*entry
	at, index, _ := b.find(key{app: name})
	for ; at < len(b.pages); at, index = at+1, 0 {
		for _, e := range b.pages[at].entries[index:] {
			if e.key.app != name {
				return list
			}
			list = append(list, e)
		}
	}
	return list
}

// write returns the entries of pages in one form, and counts the pages that had to be written for it.
func write(pages []*page, f form, wrote func()) []chunk {
	chunks := make([]chunk, 0, len(pages)+2)
	before := ""
	for _, p := range pages {
		chunks = append(chunks, p.write(f, before, wrote))
		before = p.entries[len(p.entries)-1].key.app
	}
	return chunks
}

// buffers are for pages that are kept compressed only.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// write returns the page in one form. before is the application of the entry in front of it.
func (p *page) write(f form, before string, wrote func()) chunk {
	follows := another
	switch before {
	case "":
		follows = nothing
	case p.entries[0].key.app:
		follows = same
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := p.written[f]; w != nil && w.follows == follows {
		return w.chunk
	}
	wrote()
	var text []byte
	if f.gzip() {
		pooled := buffers.Get().(*[]byte)
		text = (*pooled)[:0]
		defer func() {
			*pooled = text
			buffers.Put(pooled)
		}()
	}
	for _, e := range p.entries {
		text = f.format().AppendEntry(text, before, e.now())
		before = e.key.app
	}
	p.written[f] = &writtenPage{newChunk(text, f.gzip()), follows}
	return p.written[f].chunk
}

// forget drops what a page is kept as in one form.
func (p *page) forget(f form) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.written[f] = nil
}

// key is what an instance goes by in paths.
type key struct {
	app string // in upper case
	id  string
}

func (k key) compare(o key) int { return cmp.Or(cmp.Compare(k.app, o.app), cmp.Compare(k.id, o.id)) }
