package eureka_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry/eureka"
	"github.com/sluice-net/sluice/registry/eureka/wire"
)

// copied is what a client knows of instances: it applies deltas as clients do.
type copied map[string]*wire.Instance

func (m copied) apply(list []*wire.Instance) {
	for _, i := range list {
		if i.Action == wire.Deleted {
			delete(m, i.App+"/"+i.ID())
		} else {
			m[i.App+"/"+i.ID()] = i
		}
	}
}

func (m copied) hash() string {
	counts := wire.Counts{}
	for _, i := range m {
		counts[i.Status]++
	}
	return counts.Hash()
}

// TestDelta follows random changes by deltas alone, in every form that clients read, and compares with the whole each
// time: the hash that came with the delta, and what is known then.
func TestDelta(t *testing.T) {
	_, c := start(t, nil)
	r := rand.New(rand.NewPCG(1, 2))
	known := copied{}
	apps := []string{"A", "B", "B-2", "C_1", "Z"}
	lastVersion := int64(0)
	for step := range 120 {
		app, id := apps[r.IntN(len(apps))], fmt.Sprintf("i%d", r.IntN(60))
		switch r.IntN(6) {
		case 0:
			c.do(http.MethodDelete, "/apps/"+app+"/"+id, "")
		case 1:
			c.do(http.MethodPut, "/apps/"+app+"/"+id+"/status?value=OUT_OF_SERVICE", "")
		case 2:
			c.do(http.MethodDelete, "/apps/"+app+"/"+id+"/status?value=UP", "")
		default:
			status := []string{"UP", "DOWN", "STARTING"}[r.IntN(3)]
			c.want(http.StatusNoContent, http.MethodPost, "/apps/"+app, body(app, id, fmt.Sprintf(`"status":%q,"metadata":{"step":"%d"},`, status, step)))
		}
		reader := c.with("Accept", []string{"application/json", "application/xml"}[step%2])
		if step%3 == 0 {
			reader = reader.with("Accept-Encoding", "gzip")
		}
		head, list := reader.all("/apps/delta")
		known.apply(list)
		equal(t, "hash after the delta", known.hash(), head.Hash)
		if head.Version < lastVersion {
			t.Errorf("version %d after %d", head.Version, lastVersion)
		}
		lastVersion = head.Version
		full, all := reader.all("/apps")
		if full.Version != 1 || full.Hash != head.Hash || len(all) != len(known) {
			t.Fatalf("step %d: version %d, %s of %d; the delta led to %s of %d", step, full.Version, full.Hash, len(all), known.hash(), len(known))
		}
		for _, i := range all {
			have := known[i.App+"/"+i.ID()]
			if have == nil {
				t.Fatalf("step %d: %s/%s is not known", step, i.App, i.ID())
			}
			if a, b := string(wire.Format{}.AppendInstance(nil, have)), string(wire.Format{}.AppendInstance(nil, i)); a != b {
				t.Fatalf("step %d: known as %s, is %s", step, a, b)
			}
		}
	}
}

// TestRetention: changes leave the delta, but not the registry, when they are old.
func TestRetention(t *testing.T) {
	var ahead atomic.Int64
	_, c := start(t, &eureka.Options{Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
	c.want(http.StatusNoContent, http.MethodPost, "/apps/A", body("A", "i", ""))
	c.want(http.StatusNoContent, http.MethodPost, "/apps/A", body("A", "j", ""))
	c.want(http.StatusOK, http.MethodDelete, "/apps/A/j", "")
	before, list := c.all("/apps/delta")
	equal(t, "at once", words(list), "A/i=UP,ADDED A/j=UP,DELETED")
	if list[1].Lease.Evicted == 0 {
		t.Error("the time of the deletion is missing")
	}
	ahead.Add(int64(2 * time.Minute))
	c.want(http.StatusOK, http.MethodPut, "/apps/A/i/status?value=DOWN", "")
	_, list = c.all("/apps/delta")
	equal(t, "after 2 minutes", words(list), "A/i=DOWN,MODIFIED A/j=UP,DELETED")
	ahead.Add(int64(2 * time.Minute))
	after, list := c.all("/apps/delta")
	equal(t, "after 4 minutes", after.Hash+" "+words(list), "DOWN_1_ A/i=DOWN,MODIFIED")
	if after.Version <= before.Version {
		t.Errorf("version %d after %d", after.Version, before.Version)
	}
	ahead.Add(int64(2 * time.Minute))
	after, list = c.all("/apps/delta")
	equal(t, "after 6 minutes", after.Hash+words(list), "DOWN_1_")
	_, list = c.all("/apps")
	equal(t, "all", words(list), "A/i=DOWN,MODIFIED")
}

// TestExpiry: an instance that is not renewed goes, after once the time that it asked for and not before, and readers
// are told of it.
func TestExpiry(t *testing.T) {
	_, c := start(t, nil)
	begin := time.Now()
	c.want(http.StatusNoContent, http.MethodPost, "/apps/A", body("A", "i", `"leaseInfo":{"durationInSecs":2},`))
	c.want(http.StatusNoContent, http.MethodPost, "/apps/A", body("A", "j", ""))
	for c.do(http.MethodGet, "/apps/A/i", "").StatusCode == http.StatusOK {
		time.Sleep(20 * time.Millisecond)
	}
	if lived := time.Since(begin); lived < 2*time.Second {
		t.Errorf("it went after %v", lived)
	}
	head, list := c.all("/apps/delta")
	equal(t, "delta", head.Hash+" "+words(list), "UP_1_ A/i=UP,DELETED A/j=UP,ADDED")
	c.want(http.StatusNotFound, http.MethodPut, "/apps/A/i", "")
	c.want(http.StatusNoContent, http.MethodPost, "/apps/A", body("A", "i", ""))
}
