package main

import (
	"errors"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry/eureka"
)

// TestPeersRemark: only peers that do not answer are named, with the reason and what it means.
func TestPeersRemark(t *testing.T) {
	well := eureka.Peer{Name: "http://a.test/eureka/", Waiting: 3}
	if got := remark([]eureka.Peer{well}); got != "" {
		t.Errorf("of one that answers: %q", got)
	}
	ill := eureka.Peer{Name: "http://b.test/eureka/", Waiting: 7, Err: errors.New("refuses: it answers 401 Unauthorized"), Since: time.Unix(0, 0)}
	const want = "servers of eureka.peers are not told of changes: http://b.test/eureka/: refuses: it answers 401 Unauthorized, since 1970-01-01T00:00:00Z, with 7 tasks to be told"
	if got := remark([]eureka.Peer{well, ill}); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
