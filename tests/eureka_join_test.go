package tests

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-net/sluice/tests/nstest"
)

// stockServer is a server that a node is to tell of changes, in the node's own namespace. It has one instance and keeps
// what it is told.
type stockServer struct {
	instance string

	mu   sync.Mutex
	told map[string]int // tasks by ACTION ID
}

func (s *stockServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if r.Method == http.MethodGet && r.URL.Path == "/eureka/apps/" {
		fmt.Fprintf(w, `{"applications":{"versions__delta":"1","apps__hashcode":"UP_1_","application":[{"name":"STOCK","instance":[%s]}]}}`, s.instance)
		return
	}
	var batch struct {
		ReplicationList []struct{ ID, Action string }
	}
	if err := json.NewDecoder(r.Body).Decode(&batch); err != nil || r.URL.Path != "/eureka/peerreplication/batch/" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var results []string
	for _, t := range batch.ReplicationList {
		code := http.StatusOK
		if t.Action == "Heartbeat" && s.told["Register "+t.ID] == 0 {
			code = http.StatusNotFound // what this client registers is not told for longer than a second
		}
		s.told[t.Action+" "+t.ID]++
		results = append(results, fmt.Sprintf(`{"statusCode":%d}`, code))
	}
	fmt.Fprintf(w, `{"responseList":[%s]}`, strings.Join(results, ","))
}

// awaitTold waits until the server was told of something.
func (s *stockServer) awaitTold(t *testing.T, task string) {
	t.Helper()
	err := eventually(t, "a stock server to be told: "+task, func() (bool, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.told[task] > 0, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestEurekaJoin: a node that joins a stock server has that one's instances as backends, tells it what clients do here,
// and says so when it cannot.
func TestEurekaJoin(t *testing.T) {
	w := &eurekaWorld{n: newNode(t, nstest.Settings{})}
	w.customer = addContainer(t, w.n, "customer", nil)
	old := &eurekaClient{name: "stock", in: addContainer(t, w.n, "old", nil)}
	old.ip = old.in.V4
	at := netip.AddrPortFrom(old.ip, nstest.Port)
	stock := &stockServer{told: map[string]int{}, instance: fmt.Sprintf(stockInstance, old.id(), at.Addr(), at.Port(), 1)}
	var l net.Listener
	err := w.n.InNetns(func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: stock}
	var group sync.WaitGroup
	group.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() {
		server.Close()
		group.Wait()
	})
	peers := fmt.Sprintf("eureka: {peers: [http://%s/eureka]}", l.Addr())
	if err := w.n.Restart(t.Context(), nstest.Settings{More: peers}); err != nil {
		t.Fatal(err)
	}
	err = eventually(t, "the stock server's service", func() (bool, error) {
		_, err := w.n.API().Service(t.Context(), old.instanceID().ServiceName())
		return err == nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w.serves(t, old)

	c := newEurekaClient(t, addContainer(t, w.n, "web", nil), speaksJSON, "web")
	w.clients = append(w.clients, c)
	c.start(t, 30)
	stock.awaitTold(t, "Register "+c.id())
	stock.awaitTold(t, "Heartbeat "+c.id())
	c.stop(t)
	stock.awaitTold(t, "Cancel "+c.id())
	if said := peersRemark(t, w.n); said != "" {
		t.Errorf("of a server that answers the node says %q", said)
	}
	server.Close()
	c.start(t, 30)
	err = eventually(t, "a remark", func() (bool, error) { return peersRemark(t, w.n) != "", nil })
	if err != nil {
		t.Error(err)
	}
	c.stop(t)
}

// peersRemark is what a node says of servers that it cannot tell of changes.
func peersRemark(t *testing.T, n *nstest.Node) string {
	t.Helper()
	out, err := n.Sluice(t.Context(), "", "status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "are not told of changes") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}
