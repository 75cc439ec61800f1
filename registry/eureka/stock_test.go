package eureka

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// stock does with batches what the reference server was seen to do, and reads them as strictly as its codec: a field
// that it does not know, or one of another type, is a fault. It shares no code with package wire.
type stock struct {
	t testing.TB

	mu        sync.Mutex
	instances map[string]*stockInstance // by APP/ID
	overrides map[string]string
	seen      [][]stockTask
	requests  []*http.Request
	// before, if set, may answer a request in the server's place; n counts them from 0.
	before func(n int, r *http.Request) (*http.Response, error)
	short  bool // answers leave the last result out
}

type stockTask struct {
	AppName            string         `json:"appName"`
	ID                 string         `json:"id"`
	LastDirtyTimestamp int64          `json:"lastDirtyTimestamp"`
	OverriddenStatus   string         `json:"overriddenStatus"`
	Status             string         `json:"status"`
	InstanceInfo       *stockInstance `json:"instanceInfo"`
	Action             string         `json:"action"`
}

func (s stockTask) String() string { return s.Action + " " + s.AppName + "/" + s.ID }

// stockInstance has the fields that the reference writes, in its order.
type stockInstance struct {
	InstanceID       string         `json:"instanceId,omitempty"`
	HostName         string         `json:"hostName"`
	App              string         `json:"app"`
	IPAddr           string         `json:"ipAddr"`
	Status           string         `json:"status"`
	OverriddenStatus string         `json:"overriddenStatus"`
	Port             stockPort      `json:"port"`
	SecurePort       stockPort      `json:"securePort"`
	CountryID        int            `json:"countryId"`
	DataCenterInfo   map[string]any `json:"dataCenterInfo"`
	LeaseInfo        struct {
		Renewal    int   `json:"renewalIntervalInSecs"`
		Duration   int   `json:"durationInSecs"`
		Registered int64 `json:"registrationTimestamp"`
		Renewed    int64 `json:"lastRenewalTimestamp"`
		Evicted    int64 `json:"evictionTimestamp"`
		Up         int64 `json:"serviceUpTimestamp"`
	} `json:"leaseInfo"`
	Metadata             map[string]string `json:"metadata"`
	AppGroupName         string            `json:"appGroupName,omitempty"`
	HomePageURL          string            `json:"homePageUrl,omitempty"`
	StatusPageURL        string            `json:"statusPageUrl,omitempty"`
	HealthCheckURL       string            `json:"healthCheckUrl,omitempty"`
	VIPAddress           string            `json:"vipAddress,omitempty"`
	SecureVIPAddress     string            `json:"secureVipAddress,omitempty"`
	IsCoordinating       string            `json:"isCoordinatingDiscoveryServer"`
	LastUpdatedTimestamp string            `json:"lastUpdatedTimestamp"`
	LastDirtyTimestamp   string            `json:"lastDirtyTimestamp"`
	ActionType           string            `json:"actionType,omitempty"`
}

type stockPort struct {
	Number  int    `json:"$"`
	Enabled string `json:"@enabled"`
}

type stockResult struct {
	StatusCode     int            `json:"statusCode"`
	ResponseEntity *stockInstance `json:"responseEntity,omitempty"`
}

func newStock(t testing.TB) *stock {
	return &stock{t: t, instances: map[string]*stockInstance{}, overrides: map[string]string{}}
}

// RoundTrip implements http.RoundTripper: no network is between a server and its stock peer.
func (s *stock) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	n, before := len(s.requests), s.before
	s.requests = append(s.requests, r)
	s.mu.Unlock()
	if before != nil {
		if answer, err := before(n, r); answer != nil || err != nil {
			return answer, err
		}
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w.Result(), nil
}

// coded answers with a code and nothing.
func coded(code int) *http.Response {
	w := httptest.NewRecorder()
	w.WriteHeader(code)
	return w.Result()
}

func (s *stock) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch r.Method + " " + r.URL.Path {
	case "GET /eureka/apps/":
		apps := map[string][]*stockInstance{}
		for _, key := range slices.Sorted(maps.Keys(s.instances)) {
			apps[s.instances[key].App] = append(apps[s.instances[key].App], s.instances[key])
		}
		var list []any
		for _, name := range slices.Sorted(maps.Keys(apps)) {
			list = append(list, map[string]any{"name": name, "instance": apps[name]})
		}
		s.write(w, map[string]any{"applications": map[string]any{"versions__delta": "1", "apps__hashcode": "", "application": list}})
	case "POST /eureka/peerreplication/batch/":
		s.batch(w, r)
	default:
		s.t.Errorf("a stock server has no %s %s", r.Method, r.URL)
		w.WriteHeader(http.StatusNotFound)
	}
}

func (s *stock) write(w io.Writer, v any) {
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.t.Error(err)
	}
}

func (s *stock) batch(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Accept") != "application/json" ||
		r.Header.Get(replicationHeader) != "" || r.Header.Get("DiscoveryIdentity-Name") != "DefaultServer" {
		s.t.Errorf("a batch with the header %v", r.Header)
	}
	var b struct {
		ReplicationList []stockTask `json:"replicationList"`
	}
	data, err := io.ReadAll(r.Body)
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err = errors.Join(err, d.Decode(&b)); err != nil || len(b.ReplicationList) == 0 || len(b.ReplicationList) > 250 {
		s.t.Errorf("a batch of %d tasks, %v: %s", len(b.ReplicationList), err, data)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.seen = append(s.seen, b.ReplicationList)
	results := make([]stockResult, len(b.ReplicationList))
	for i, t := range b.ReplicationList {
		results[i] = s.task(t)
	}
	if s.short {
		results = results[:len(results)-1]
	}
	s.write(w, map[string]any{"responseList": results})
}

func (s *stock) task(t stockTask) stockResult {
	id := t.AppName + "/" + t.ID
	known, dirty := s.instances[id], fmt.Sprint(t.LastDirtyTimestamp)
	if (t.Action == "Register") != (t.InstanceInfo != nil) {
		s.t.Errorf("%s with the instance %v", t, t.InstanceInfo)
	}
	switch t.Action {
	case "Register":
		if t.InstanceInfo.LastDirtyTimestamp != dirty || t.InstanceInfo.App != t.AppName {
			s.t.Errorf("%s of %d has the instance %+v", t, t.LastDirtyTimestamp, t.InstanceInfo)
		}
		s.instances[id] = t.InstanceInfo
		if t.InstanceInfo.OverriddenStatus != "UNKNOWN" {
			s.overrides[id] = t.InstanceInfo.OverriddenStatus
		}
		return stockResult{StatusCode: 200}
	case "Heartbeat":
		switch {
		case known == nil, older(known.LastDirtyTimestamp, dirty):
			return stockResult{StatusCode: 404}
		case older(dirty, known.LastDirtyTimestamp):
			return stockResult{409, known}
		}
		return stockResult{StatusCode: 200}
	}
	if known == nil {
		return stockResult{StatusCode: 404}
	}
	switch t.Action {
	case "Cancel":
		delete(s.instances, id)
		delete(s.overrides, id)
	case "StatusUpdate":
		s.overrides[id], known.Status = t.Status, t.Status
	case "DeleteStatusOverride":
		delete(s.overrides, id)
		known.Status = t.Status
	default:
		return stockResult{StatusCode: 500}
	}
	return stockResult{StatusCode: 200}
}

// older compares two times that are written as numbers without leading zeros.
func older(a, b string) bool { return len(a) < len(b) || len(a) == len(b) && a < b }

// batches tells the tasks that came, a line for each batch.
func (s *stock) batches() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []string
	for _, b := range s.seen {
		var words []string
		for _, t := range b {
			words = append(words, t.String())
		}
		lines = append(lines, strings.Join(words, ", "))
	}
	s.seen = nil
	return strings.Join(lines, "\n")
}

// has tells what is known of an instance.
func (s *stock) has(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.instances[id]
	if i == nil {
		return "nothing"
	}
	return i.Status + " " + s.overrides[id]
}

// known has the server know an instance that its own clients registered.
func (s *stock) known(app, id, dirty, renewal string) {
	text := fmt.Sprintf(`{"instanceId":%q,"hostName":"h","app":%q,"ipAddr":"10.3.3.3","status":"UP","overriddenStatus":"UNKNOWN",`+
		`"port":{"$":8080,"@enabled":"true"},"securePort":{"$":443,"@enabled":"false"},"countryId":1,`+
		`"dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"},`+
		`"leaseInfo":{"renewalIntervalInSecs":%s,"durationInSecs":90},"metadata":{"of":"stock"},"isCoordinatingDiscoveryServer":"false",`+
		`"lastUpdatedTimestamp":"1","lastDirtyTimestamp":%q,"actionType":"ADDED"}`, id, app, renewal, dirty)
	i := &stockInstance{}
	if err := json.Unmarshal([]byte(text), i); err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.instances[app+"/"+id] = i
}
