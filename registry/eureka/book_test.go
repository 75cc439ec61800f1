package eureka

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/eureka/wire"
)

// TestBook compares a book with a map through random changes: what is in it, and what it is written as in every form,
// by pages of which most were written before.
func TestBook(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	var b book
	model := map[key]*entry{}
	wrote := 0
	for step := range 4000 {
		k := key{fmt.Sprintf("A%d", r.IntN(12)), fmt.Sprintf("i%d", r.IntN(100))}
		grow := step%1000 < 700
		if grow == (r.IntN(4) > 0) {
			e := &entry{key: k, wire: &wire.Instance{App: k.app, InstanceID: k.id, HostName: fmt.Sprint(step), DataCenter: &wire.DataCenter{}}}
			e.renewed = newEntry(&registry.Instance{}, false, nil).renewed
			if old := b.put(e); old != model[k] {
				t.Fatalf("put %v: replaced %v, want %v", k, old, model[k])
			}
			model[k] = e
		} else {
			if old := b.remove(k); old != model[k] {
				t.Fatalf("removed %v: %v, want %v", k, old, model[k])
			}
			delete(model, k)
		}
		if b.count != len(model) || b.get(k) != model[k] {
			t.Fatalf("%d of %d entries, %v", b.count, len(model), b.get(k))
		}
		if step%97 != 0 {
			continue
		}
		var list []*wire.Instance
		var ofApp []*entry
		for _, k2 := range slices.SortedFunc(maps.Keys(model), key.compare) {
			list = append(list, model[k2].wire)
			if k2.app == k.app {
				ofApp = append(ofApp, model[k2])
			}
		}
		if got := b.app(k.app); !slices.Equal(got, ofApp) {
			t.Fatalf("application %s: %d entries, want %d", k.app, len(got), len(ofApp))
		}
		for f := range form(forms) {
			want := f.format().AppendApplications(nil, &wire.Applications{Version: 1, Instances: list})
			if got := textOf(t, whole(b.pages, f, &wrote)); !bytes.Equal(got, want) {
				t.Fatalf("step %d, form %d: got\n%s\nwant\n%s", step, f, got, want)
			}
		}
	}
	for _, p := range b.pages {
		if len(p.entries) == 0 || len(p.entries) > maxPage {
			t.Errorf("a page of %d", len(p.entries))
		}
	}
}

// whole writes pages with head and tail.
func whole(pages []*page, f form, wrote *int) *body {
	last := ""
	if len(pages) > 0 {
		p := pages[len(pages)-1]
		last = p.entries[len(p.entries)-1].app
	}
	chunks := []chunk{newChunk(f.format().AppendHead(nil, 1, ""), f.gzip())}
	chunks = append(chunks, write(pages, f, func() { *wrote++ })...)
	return newBody(append(chunks, newChunk(f.format().AppendTail(nil, last), f.gzip())), f.gzip())
}

func textOf(t testing.TB, b *body) []byte {
	t.Helper()
	var out bytes.Buffer
	if n, err := b.WriteTo(&out); err != nil || int(n) != b.length() || out.Len() != b.length() {
		t.Fatalf("wrote %d of %d bytes, %v", n, b.length(), err)
	}
	if !b.gzip {
		return out.Bytes()
	}
	r, err := gzip.NewReader(&out)
	if err != nil {
		t.Fatal(err)
	}
	r.Multistream(false)
	text, err := io.ReadAll(r) // which compares the checksum
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestCombine puts checksums together.
func TestCombine(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		text := make([]byte, r.IntN(5000))
		for i := range text {
			text[i] = byte(r.Uint32())
		}
		at := r.IntN(len(text) + 1)
		got := combine(crc32.ChecksumIEEE(text[:at]), crc32.ChecksumIEEE(text[at:]), len(text)-at)
		if got != crc32.ChecksumIEEE(text) {
			t.Fatalf("%d and %d bytes: %x", at, len(text)-at, got)
		}
	}
}

// TestWorkIsOfTheChange: after a change, a read of everything writes what the change is on, and no more.
func TestWorkIsOfTheChange(t *testing.T) {
	t.Parallel()
	m := newMemory(instances(5000, 50)...)
	s := serve(t, m)
	for _, f := range []form{formOf(wire.Format{}, true), formOf(wire.Format{XML: true}, false)} {
		s.writer.all(false, f)
		before := s.writer.pages.Load()
		if s.writer.all(false, f); s.writer.pages.Load() != before {
			t.Errorf("form %d: a second read wrote %d pages", f, s.writer.pages.Load()-before)
		}
		id := registry.InstanceID{Namespace: "default", Service: "service-7", ID: "host-57.example:service-7:8080"}
		_, rev, err := m.Update(t.Context(), id, func(i *registry.Instance) error { return mergeMetadata(i, map[string]string{"form": fmt.Sprint(f)}) })
		if err == nil {
			err = s.Wait(t.Context(), rev)
		}
		if err != nil {
			t.Fatal(err)
		}
		if text := string(textOf(t, s.writer.all(false, f))); strings.Count(text, fmt.Sprint(f)) == 0 || len(text) < 5000*500 {
			t.Errorf("form %d: the change is not there", f)
		}
		if n := s.writer.pages.Load() - before; n != 1 {
			t.Errorf("form %d: %d pages written for one change", f, n)
		}
	}
}

// TestResync: a new snapshot with the same contents changes nothing, and what is not in it is deleted.
func TestResync(t *testing.T) {
	t.Parallel()
	list := instances(10, 2)
	v := newView("default", time.Minute, time.Now)
	snapshot := func(list []registry.Instance) registry.Batch {
		b := registry.Batch{Snapshot: true}
		for _, i := range list {
			b.Changes = append(b.Changes, registry.Change{Instance: &i})
		}
		return b
	}
	v.take(snapshot(list))
	version := v.version
	v.take(snapshot(list))
	if v.version != version || v.recent.book.count != 0 {
		t.Errorf("the same again: version %d after %d, %d changes", v.version, version, v.recent.book.count)
	}
	v.take(snapshot(list[1:]))
	if v.recent.book.count != 1 || v.listed.count != 9 || len(v.real) != 9 || v.counts.Hash() != "UP_9_" {
		t.Errorf("one less: %d changes, %d listed, %s", v.recent.book.count, v.listed.count, v.counts.Hash())
	}
}

// TestForgedRecord: whoever may write instances can write what is kept for this protocol. What it does not write itself,
// no reader is told.
func TestForgedRecord(t *testing.T) {
	t.Parallel()
	const good = `{"app":"SERVICE-0","dataCenter":"MyOwn","action":"ADDED","held":"","vip":"x"}`
	for old, forged := range map[string]string{
		`"SERVICE-0"`: `"OTHER"`, `SERVICE-0`: `service-0`, `"MyOwn"`: `"Mine"`, `"ADDED"`: `"DELETED"`, `"held":""`: `"held":"HELD"`, `{`: `[`, `"x"`: `1`,
	} {
		i := instances(1, 1)[0]
		i.Eureka = []byte(strings.Replace(good, old, forged, 1))
		if got := newEntry(&i, false, nil); got.app != "SERVICE-0" || got.wire.VIP != "service-0" || got.wire.DataCenter.Name != wire.MyOwn {
			t.Errorf("%s: told of as %+v", i.Eureka, got.wire)
		}
		i.Eureka = []byte(good)
		if got := newEntry(&i, false, nil); got.wire.VIP != "x" {
			t.Errorf("%s: told of as %+v", i.Eureka, got.wire)
		}
	}
}

// TestManyNames: of a VIP field that holds very many names the first count, and nothing is left of them afterwards.
func TestManyNames(t *testing.T) {
	t.Parallel()
	var names []string
	for n := range 4000 {
		names = append(names, fmt.Sprint("n", n))
	}
	i := instances(1, 1)[0]
	r := recordOf(&i)
	r.VIP = strings.Join(names, ",")
	if err := r.store(&i); err != nil {
		t.Fatal(err)
	}
	v := newView("default", time.Minute, time.Now)
	v.take(registry.Batch{Revision: 1, Snapshot: true, Changes: []registry.Change{{Instance: &i}}})
	if got := len(v.vips[0]); got != maxNames || v.vips[0]["n0"] == nil || v.listed.pages[0].entries[0].wire.VIP != r.VIP {
		t.Errorf("found by %d names", got)
	}
	v.take(registry.Batch{Revision: 2, Changes: []registry.Change{{Instance: &i, Deleted: true}}})
	if len(v.vips[0]) > 0 {
		t.Errorf("%d names are left", len(v.vips[0]))
	}
}

// TestStaleView: what became another's a moment ago, so that the view does not know it yet, is not changed.
func TestStaleView(t *testing.T) {
	t.Parallel()
	i := instances(1, 1)[0]
	i.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	m := newMemory(i)
	s := serve(t, m)
	if !s.known(t.Context()) {
		t.Fatal("nothing is known")
	}
	theirs := i
	theirs.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{10, 1, 2, 3})}
	m.mu.Lock()
	m.items[i.InstanceID] = theirs
	m.mu.Unlock()
	path := "/eureka/apps/SERVICE-0/" + i.ID
	batch := func(action string) string {
		return fmt.Sprintf(`{"replicationList":[{"appName":"SERVICE-0","id":%q,"status":"DOWN","action":%q}]}`, i.ID, action)
	}
	for _, ask := range [][3]string{
		{"PUT", path + "/status?value=DOWN"}, {"PUT", path + "/metadata?a=b"},
		{"POST", "/eureka/peerreplication/batch/", batch("StatusUpdate")},
	} {
		r := httptest.NewRequest(ask[0], ask[1], strings.NewReader(ask[2]))
		r.RemoteAddr = "127.0.0.1:1"
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code != http.StatusForbidden && w.Body.String() != `{"responseList":[{"statusCode":403}]}` {
			t.Errorf("%v: %d %s", ask, w.Code, w.Body)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := m.items[i.InstanceID]; !reflect.DeepEqual(now, theirs) {
		t.Errorf("changed to %+v", now)
	}
}

// FuzzRequest sends anything anywhere. No answer is without a length, and none that must be empty is not.
func FuzzRequest(f *testing.F) {
	f.Add("GET", "/eureka/apps/", "application/json", "")
	f.Add("PUT", "/eureka/v2/apps/SERVICE-1/host-1.example%3Aservice-1:8080?status=UP&lastDirtyTimestamp=2", "", "")
	f.Add("PUT", "/eureka/apps/SERVICE-1/x/status?value=DOWN", "", "")
	f.Add("PUT", "/eureka/apps/SERVICE-1/x/metadata?a=b;c&%zz", "*/*;q=x", "")
	f.Add("POST", "/eureka/apps/A", "application/json", `{"instance":{"app":"a","hostName":"h","ipAddr":"127.0.0.1","dataCenterInfo":{"@class":"com.netflix.appinfo.MyDataCenterInfo","name":"MyOwn"}}}`)
	f.Add("POST", "/eureka//peerreplication/batch/", "application/json", `{"replicationList":[{"appName":"A","id":"h","action":"Cancel"}]}`)
	f.Add("DELETE", "/eureka/apps/A/h", "text/*", "")
	s := serve(f, newMemory(instances(4, 2)...))
	f.Fuzz(func(t *testing.T, method, target, kind, text string) {
		r, err := http.NewRequest(method, "http://127.0.0.1", strings.NewReader(text))
		if err != nil {
			return
		}
		if r.URL, err = r.URL.Parse(target); err != nil {
			return
		}
		r.RemoteAddr = "127.0.0.1:1"
		r.Header = http.Header{"Accept": {kind}, "Content-Type": {kind}, "Accept-Encoding": {kind}}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if length := w.Header().Get("Content-Length"); w.Code != http.StatusNoContent && method != http.MethodHead && length != fmt.Sprint(w.Body.Len()) {
			t.Fatalf("%s %q: %d with Content-Length %q and %d bytes", method, target, w.Code, length, w.Body.Len())
		}
		if (w.Code == http.StatusNotFound || w.Code == http.StatusNoContent || method == http.MethodPut && w.Code == http.StatusOK) && w.Body.Len() > 0 {
			t.Fatalf("%s %q: %d with %q", method, target, w.Code, w.Body)
		}
	})
}

// BenchmarkReadAfterChange reads everything, compressed JSON, after one instance of so many has changed.
func BenchmarkReadAfterChange(b *testing.B) {
	for _, n := range []int{100, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m := newMemory(instances(n, n/20)...)
			s := serve(b, m)
			id := registry.InstanceID{Namespace: "default", Service: "service-1", ID: "host-1.example:service-1:8080"}
			f := formOf(wire.Format{}, true)
			s.writer.all(false, f)
			b.ResetTimer()
			for i := range b.N {
				_, rev, err := m.Update(b.Context(), id, func(in *registry.Instance) error { return mergeMetadata(in, map[string]string{"n": fmt.Sprint(i)}) })
				if err == nil {
					err = s.Wait(b.Context(), rev)
				}
				if err != nil {
					b.Fatal(err)
				}
				if _, err := s.writer.all(false, f).WriteTo(io.Discard); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(s.writer.all(false, f).length())/float64(n), "B/instance")
		})
	}
}

// BenchmarkHeartbeat renews one of 10 000 instances, but for what the store does.
func BenchmarkHeartbeat(b *testing.B) {
	s := serve(b, newMemory(instances(10_000, 500)...))
	s.o.Guard.Own = func(netip.Addr) []netip.Addr { return addressesOf("10.0.0.1") }
	r := httptest.NewRequest(http.MethodPut, "/eureka/apps/SERVICE-1/host-1.example:service-1:8080?status=UP&lastDirtyTimestamp=2", nil)
	for b.Loop() {
		w := httptest.NewRecorder()
		if s.ServeHTTP(w, r); w.Code != http.StatusOK {
			b.Fatal(w.Code, w.Body)
		}
	}
}
