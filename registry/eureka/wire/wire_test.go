package wire

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the files that the tests compare with")

// TestClients reads what real clients register with, and compares what is told of it with files.
func TestClients(t *testing.T) {
	t.Parallel()
	requests, err := filepath.Glob("testdata/*.json")
	if err != nil {
		t.Fatal(err)
	}
	requests = append(requests, "testdata/fargo.xml")
	if len(requests) < 7 {
		t.Fatalf("fixtures: %v", requests)
	}
	for _, file := range requests {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			i, err := ParseInstance(data, filepath.Ext(file) == ".xml")
			if err != nil {
				t.Fatal(err)
			}
			if err := i.Check(i.App); err != nil {
				t.Fatal(err)
			}
			i.Action = Added
			for _, f := range Formats() {
				ext := ".json"
				if f.XML {
					ext = ".xml"
				}
				if f.Compact {
					ext = "-compact" + ext
				}
				golden(t, filepath.Join("testdata", "answers", strings.ReplaceAll(filepath.Base(file), ".", "-")+ext), f.AppendInstance(nil, i))
			}
		})
	}
}

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != string(got)+"\n" {
		t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
	}
}

// TestReference has the answers that the reference server was seen to give.
func TestReference(t *testing.T) {
	t.Parallel()
	i := &Instance{
		InstanceID: "h1:svc:8080", HostName: "h1.example", App: "SVC", IPAddr: "127.0.0.1", Status: Up, Overridden: Unknown,
		Port: Port{8080, true}, SecurePort: Port{8443, false}, CountryID: 1, DataCenter: &DataCenter{Name: MyOwn},
		Lease:    Lease{Renewal: 30, Duration: 90, Registered: 1795377502421, Renewed: 1795377502421, Up: 1795377502312},
		Metadata: map[string]string{"zone": "z1", "under_score": "v 1"}, AppGroup: "UNKNOWN",
		HomePage: "http://h1.example:8080/", StatusPage: "http://h1.example:8080/info", HealthCheck: "http://h1.example:8080/health",
		VIP: "svc,svc-alias", SecureVIP: "svc-sec", LastUpdated: 1795377502421, LastDirty: 1700000000000, Action: Added,
	}
	const want = `{"instance":{"instanceId":"h1:svc:8080","hostName":"h1.example","app":"SVC","ipAddr":"127.0.0.1",` +
		`"status":"UP","overriddenStatus":"UNKNOWN","port":{"$":8080,"@enabled":"true"},"securePort":{"$":8443,"@enabled":"false"},` +
		`"countryId":1,"dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"},` +
		`"leaseInfo":{"renewalIntervalInSecs":30,"durationInSecs":90,"registrationTimestamp":1795377502421,` +
		`"lastRenewalTimestamp":1795377502421,"evictionTimestamp":0,"serviceUpTimestamp":1795377502312},` +
		`"metadata":{"under_score":"v 1","zone":"z1"},"appGroupName":"UNKNOWN","homePageUrl":"http://h1.example:8080/",` +
		`"statusPageUrl":"http://h1.example:8080/info","healthCheckUrl":"http://h1.example:8080/health","vipAddress":"svc,svc-alias",` +
		`"secureVipAddress":"svc-sec","isCoordinatingDiscoveryServer":"false","lastUpdatedTimestamp":"1795377502421",` +
		`"lastDirtyTimestamp":"1700000000000","actionType":"ADDED"}}`
	equal(t, string(Format{}.AppendInstance(nil, i)), want)
	one := &Applications{Version: VersionFull, Hash: Counts{Up: 1}.Hash(), Instances: []*Instance{i}}
	inner := strings.TrimSuffix(strings.TrimPrefix(want, `{"instance":`), `}`)
	equal(t, string(Format{}.AppendApplications(nil, one)),
		`{"applications":{"versions__delta":"1","apps__hashcode":"UP_1_","application":[{"name":"SVC","instance":[`+inner+`]}]}}`)
	equal(t, string(Format{}.AppendApplications(nil, &Applications{Version: 1})),
		`{"applications":{"versions__delta":"1","apps__hashcode":"","application":[]}}`)
	equal(t, string(Format{}.AppendApplication(nil, "SVC", []*Instance{i, i})),
		`{"application":{"name":"SVC","instance":[`+inner+`,`+inner+`]}}`)
	two := *i
	two.App, two.Metadata = "TWO", nil
	golden(t, "testdata/answers/applications.xml", Format{XML: true}.AppendApplications(nil,
		&Applications{Version: 7, Hash: "UP_3_", Instances: []*Instance{i, i, &two}}))
	golden(t, "testdata/answers/applications-compact.xml", Format{XML: true, Compact: true}.AppendApplications(nil,
		&Applications{Version: 7, Hash: "UP_3_", Instances: []*Instance{i, i, &two}}))
	equal(t, string(Format{XML: true}.AppendApplications(nil, &Applications{Version: 1})),
		"<applications>\n  <versions__delta>1</versions__delta>\n  <apps__hashcode></apps__hashcode>\n</applications>")
}

func equal(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestHash has the examples of the reference.
func TestHash(t *testing.T) {
	t.Parallel()
	equal(t, Counts{}.Hash(), "")
	equal(t, Counts{Up: 1, Down: 0}.Hash(), "UP_1_")
	equal(t, Counts{Up: 2, Starting: 1, OutOfService: 1, Down: 1}.Hash(), "DOWN_1_OUT_OF_SERVICE_1_STARTING_1_UP_2_")
}

// base is the least that can be registered.
const base = `"app":"a","hostName":"h","ipAddr":"1.2.3.4","dataCenterInfo":{"@class":"com.netflix.appinfo.MyDataCenterInfo","name":"MyOwn"}`

// TestTolerance reads what is not as the reference writes it.
func TestTolerance(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   string
		want func(*Instance) // changes what the base means
	}{
		{``, func(*Instance) {}},
		{`"status":null,"port":null,"securePort":null,"countryId":null,"leaseInfo":null,"metadata":null,"vipAddress":null`, func(*Instance) {}},
		{`"status":"up"`, func(i *Instance) { i.Status = Unknown }},
		{`"status":"DOWN","overriddenstatus":"UP"`, func(i *Instance) { i.Status, i.Overridden = Down, Up }},
		{`"overriddenStatus":"OUT_OF_SERVICE","overriddenstatus":"UP"`, func(i *Instance) { i.Overridden = OutOfService }},
		{`"port":{"$":"80","@enabled":false},"securePort":{"@enabled":"TRUE","$":443}`, func(i *Instance) {
			i.Port, i.SecurePort = Port{80, false}, Port{443, true}
		}},
		{`"countryId":"7"`, func(i *Instance) { i.CountryID = 7 }},
		{`"leaseInfo":{"renewalIntervalInSecs":"5","durationInSecs":-1,"serviceUpTimestamp":12}`, func(i *Instance) {
			i.Lease.Renewal, i.Lease.Up = 5, 12
		}},
		{`"metadata":{"@class":"x","a":5,"b":true,"c":1.50,"d":null,"e":{"f":1},"g_h":"i"}`, func(i *Instance) {
			i.Metadata = map[string]string{"a": "5", "b": "true", "c": "1.50", "g_h": "i"}
		}},
		{`"isCoordinatingDiscoveryServer":true,"lastUpdatedTimestamp":3,"lastDirtyTimestamp":"4"`, func(i *Instance) {
			i.Coordinating, i.LastUpdated, i.LastDirty = true, 3, 4
		}},
		{`"other":1,"more":{"deep":[[{"status":"DOWN"}]]},"list":[1,2,{"app":"x"}],"appGroupName":"grp"`, func(i *Instance) { i.AppGroup = "GRP" }},
	} {
		want := &Instance{
			App: "A", HostName: "h", IPAddr: "1.2.3.4", Status: Up, Overridden: Unknown, CountryID: 1,
			Port: Port{7001, true}, SecurePort: Port{7002, false}, DataCenter: &DataCenter{Name: MyOwn}, Lease: Lease{Renewal: 30, Duration: 90},
		}
		c.want(want)
		body := `{"instance":{` + base + `}}`
		if c.in != "" {
			body = `{"instance":{` + c.in + `,` + base + `}}`
		}
		got, err := ParseInstance([]byte(body), false)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
		} else if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", c.in, got, want)
		}
	}
}

// TestXMLTolerance reads what XML leaves open.
func TestXMLTolerance(t *testing.T) {
	t.Parallel()
	got, err := ParseInstance([]byte(`<?xml version="1.0" encoding="UTF-8"?><!-- hi -->
<instance><hostName> h </hostName><app>a</app><ipAddr>1.2.3.4</ipAddr><status>out_of_service</status><port>80</port>
<securePort>443</securePort><dataCenterInfo><name>Amazon</name><metadata><instance-id>i-1</instance-id></metadata></dataCenterInfo>
<metadata class="java.util.HashMap"><under__score>1</under__score><lone_one>2</lone_one><a_-b_.0020c>&lt;3</a_-b_.0020c></metadata>
<unknown><deep/></unknown></instance>`), true)
	if err != nil {
		t.Fatal(err)
	}
	want := &Instance{
		App: "A", HostName: "h", IPAddr: "1.2.3.4", Status: OutOfService, Overridden: Unknown, CountryID: 1,
		Port: Port{80, true}, SecurePort: Port{443, false}, Lease: Lease{Renewal: 30, Duration: 90},
		DataCenter: &DataCenter{Name: Amazon, Metadata: map[string]string{"instance-id": "i-1"}},
		Metadata:   map[string]string{"under_score": "1", "lone_one": "2", "a$b c": "<3"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got.ID() != "i-1" {
		t.Errorf("id %q", got.ID())
	}
}

// TestRefused has what the reference answers with 400.
func TestRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in  string
		xml bool
	}{
		{in: ""}, {in: "null"}, {in: "[]"}, {in: `{}`}, {in: `{"app":"a"}`}, {in: `{"instance":{"hostName":"h"}}`}, {in: `{"instance":1}`},
		{in: `{"instance":{` + base + `}`}, {in: `{"instance":{` + base + `}} {}`},
		{in: `{"instance":{` + base + `,"port":80}}`}, {in: `{"instance":{` + base + `,"port":{"$":"x"}}}`},
		{in: `{"instance":{` + base + `,"lastDirtyTimestamp":"soon"}}`}, {in: `{"instance":{` + base + `,"countryId":99999999999}}`},
		{in: `{"instance":{"app":"a","dataCenterInfo":{"name":"MyOwn"}}}`},
		{in: `{"instance":{"app":"a","dataCenterInfo":{"@class":"com.netflix.appinfo.MyDataCenterInfo","name":"Azure"}}}`},
		{in: `{"instance":{` + base + `,"x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}}`},
		{in: `{"instance":{` + base + `,"x":[` + strings.Repeat("1,", 5000) + `1]}}`},
		{in: ``, xml: true}, {in: `<instance/>`, xml: true}, {in: `<a/><b/>`, xml: true}, {in: `<instance><app>a</app>`, xml: true},
		{in: `<!DOCTYPE instance [<!ENTITY a "b">]><instance><app>&a;</app></instance>`, xml: true},
		{in: `<instance><app>a</app><dataCenterInfo><name>Azure</name></dataCenterInfo></instance>`, xml: true},
		{in: strings.Repeat("<a>", 100) + strings.Repeat("</a>", 100), xml: true},
	} {
		if i, err := ParseInstance([]byte(c.in), c.xml); !errors.Is(err, ErrSyntax) {
			t.Errorf("%.80s: %+v, %v", c.in, i, err)
		}
	}
}

// TestCheck has the reference's reasons, in its order.
func TestCheck(t *testing.T) {
	t.Parallel()
	i := &Instance{}
	for _, want := range []struct {
		text string
		then func()
	}{
		{"Missing instanceId", func() { i.InstanceID = "x" }},
		{"Missing hostname", func() { i.HostName = "h" }},
		{"Missing ip address", func() { i.IPAddr = "1.2.3.4" }},
		{"Missing appName", func() { i.App = "B" }},
		{"Mismatched appName, expecting A but was B", func() { i.App = "A" }},
		{"Missing dataCenterInfo", func() { i.DataCenter = &DataCenter{} }},
		{"Missing dataCenterInfo Name", func() { i.DataCenter.Name = MyOwn }},
	} {
		if err := i.Check("A"); err == nil || err.Error() != want.text {
			t.Errorf("got %v, want %s", err, want.text)
		}
		want.then()
	}
	if err := i.Check("A"); err != nil {
		t.Error(err)
	}
}

func TestID(t *testing.T) {
	t.Parallel()
	amazon := &DataCenter{Name: Amazon, Metadata: map[string]string{"instance-id": "i-1"}}
	for want, i := range map[string]Instance{
		"id":  {InstanceID: "id", HostName: "h", DataCenter: amazon},
		"h:7": {HostName: "h", Metadata: map[string]string{"instanceId": "7"}},
		"h:8": {HostName: "h", Metadata: map[string]string{"instanceId": "h:8"}},
		"i-1": {HostName: "h", DataCenter: amazon},
		"h":   {HostName: "h"},
	} {
		equal(t, i.ID(), want)
	}
}

// TestNames escapes keys so that they are names of elements, and back.
func TestNames(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{
		"zone": "zone", "under_score": "under__score", "a$b": "a_-b", "a b": "a_.0020b", "1st": "_.0031st", "x:y": "x_.003ay",
		"management.port": "management.port", "-": "_.002d", "é": "é", "a😀": "a_.d83d_.de00", "_.0020": "__.0020", "a\x00": "a_.0000",
	} {
		equal(t, escapeName(key), want)
		equal(t, unescapeName(want), key)
	}
	for name, want := range map[string]string{"a_b": "a_b", "_": "_", "a_": "a_", "_.00": "_.00", "_.zzzz": "_.zzzz", "a_.d83d": "a\uFFFD"} {
		equal(t, unescapeName(name), want)
	}
}

// TestStrict compares fields with the list of those that clients know: one more, or one less, and some of them fail.
func TestStrict(t *testing.T) {
	t.Parallel()
	always := "hostName app ipAddr status overriddenStatus port securePort countryId dataCenterInfo leaseInfo metadata " +
		"isCoordinatingDiscoveryServer lastUpdatedTimestamp lastDirtyTimestamp"
	given := " instanceId appGroupName homePageUrl statusPageUrl healthCheckUrl secureHealthCheckUrl vipAddress secureVipAddress actionType asgName"
	least := Instance{HostName: "h", App: "A", IPAddr: "1.2.3.4", Status: Up, Overridden: Unknown, DataCenter: &DataCenter{Name: MyOwn}}
	most := least
	most.InstanceID, most.AppGroup, most.HomePage, most.StatusPage, most.HealthCheck, most.SecureHealthCheck = "i", "G", "h", "s", "c", "d"
	most.VIP, most.SecureVIP, most.Action, most.ASG = "v", "w", Added, "asg"
	for _, c := range []struct {
		i    *Instance
		want string
	}{{&least, always}, {&most, always + given}} {
		var doc map[string]map[string]any
		if err := json.Unmarshal(Format{}.AppendInstance(nil, c.i), &doc); err != nil {
			t.Fatal(err)
		}
		in := doc["instance"]
		keys(t, in, c.want)
		keys(t, in["port"], "$ @enabled")
		keys(t, in["securePort"], "$ @enabled")
		keys(t, in["dataCenterInfo"], "@class name")
		keys(t, in["leaseInfo"], "renewalIntervalInSecs durationInSecs registrationTimestamp lastRenewalTimestamp evictionTimestamp serviceUpTimestamp")
		keys(t, in["metadata"], "@class")
		for _, text := range strings.Fields("isCoordinatingDiscoveryServer lastUpdatedTimestamp lastDirtyTimestamp") {
			if _, ok := in[text].(string); !ok {
				t.Errorf("%s is a %T", text, in[text])
			}
		}
	}
}

func keys(t *testing.T, object any, want string) {
	t.Helper()
	wanted := map[string]bool{}
	for _, key := range strings.Fields(want) {
		wanted[key] = true
	}
	got := map[string]bool{}
	for key := range object.(map[string]any) {
		got[key] = true
	}
	if !reflect.DeepEqual(got, wanted) {
		t.Errorf("got the keys %v, want %v", got, wanted)
	}
}

// TestBatch reads and writes what peers were seen to send.
func TestBatch(t *testing.T) {
	t.Parallel()
	const tasks = `{"replicationList":[` +
		`{"appName":"SVC","id":"h1:svc:8080","lastDirtyTimestamp":1700000000000,"status":"UP","instanceInfo":{` + base + `},"action":"Register"},` +
		`{"appName":"SVC","id":"h1:svc:8080","lastDirtyTimestamp":1700000000000,"overriddenStatus":"UP","status":"UP","action":"Heartbeat"},` +
		`{"appName":"SVC","id":"h1:svc:8080","action":"Cancel"}]}`
	got, err := ParseBatch([]byte(tasks))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || got[0].Instance == nil || got[0].Instance.App != "A" || got[1].LastDirty != 1700000000000 ||
		got[1].Overridden != "UP" || got[2] != (Task{App: "SVC", ID: "h1:svc:8080", Action: TaskCancel}) {
		t.Errorf("got %+v", got)
	}
	again, err := ParseBatch(AppendBatch(nil, got))
	if err != nil || !reflect.DeepEqual(again, got) {
		t.Errorf("got %+v (%v), want %+v", again, err, got)
	}
	got[0].Instance = nil
	equal(t, string(AppendBatch(nil, got[1:])), `{"replicationList":[`+
		`{"appName":"SVC","id":"h1:svc:8080","lastDirtyTimestamp":1700000000000,"overriddenStatus":"UP","status":"UP","action":"Heartbeat"},`+
		`{"appName":"SVC","id":"h1:svc:8080","action":"Cancel"}]}`)
	const results = `{"responseList":[{"statusCode":200},{"statusCode":404},{"statusCode":409,"responseEntity":{` + base + `}}]}`
	answers, err := ParseResults([]byte(results))
	if err != nil || len(answers) != 3 || answers[1].Code != 404 || answers[2].Instance == nil {
		t.Errorf("got %+v, %v", answers, err)
	}
	equal(t, string(AppendResults(nil, answers[:2])), `{"responseList":[{"statusCode":200},{"statusCode":404}]}`)
	many := `{"replicationList":[` + strings.Repeat(`{"action":"Cancel"},`, MaxBatch) + `{}]}`
	if _, err := ParseBatch([]byte(many)); !errors.Is(err, ErrSyntax) {
		t.Errorf("a batch of %d: %v", MaxBatch+1, err)
	}
}

// TestReadApplications reads what it writes, and more than could be held as one tree.
func TestReadApplications(t *testing.T) {
	t.Parallel()
	for _, f := range []Format{{}, {XML: true}} {
		a := &Applications{Version: 3, Hash: "UP_1000_"}
		for n := range 1000 {
			a.Instances = append(a.Instances, &Instance{
				InstanceID: fmt.Sprintf("i%d", n), HostName: "h", App: fmt.Sprintf("A%03d", n/3), IPAddr: "1.2.3.4",
				Status: Up, Overridden: Unknown, Port: Port{80, true}, CountryID: 1, DataCenter: &DataCenter{Name: MyOwn},
				Lease: Lease{Renewal: 30, Duration: 90}, Metadata: map[string]string{"a b_$": "<\"'\n>"}, Action: Added,
			})
		}
		var got []*Instance
		head, skipped, err := ReadApplications(bytes.NewReader(f.AppendApplications(nil, a)), f.XML, func(i *Instance) error {
			got = append(got, i)
			return nil
		})
		if err != nil || skipped != 0 || head.Version != 3 || head.Hash != a.Hash {
			t.Fatalf("%+v: %+v, %d skipped, %v", f, head, skipped, err)
		}
		if !reflect.DeepEqual(got, a.Instances) {
			t.Errorf("%+v: got %+v …, want %+v …", f, got[0], a.Instances[0])
		}
	}
	one := strings.NewReader(`{"applications":{"application":{"name":"A","instance":{"app":"a","port":1}}}}`)
	if _, skipped, err := ReadApplications(one, false, func(*Instance) error { return nil }); skipped != 1 || err != nil {
		t.Errorf("%d skipped, %v", skipped, err)
	}
}

// TestServer shows that what a server tells of itself is well formed.
func TestServer(t *testing.T) {
	t.Parallel()
	s := &Server{General: map[string]string{"server-uptime": "00:01"}, Replicas: "http://p/,", Instance: &Instance{App: "E", HostName: "h", Status: Up}}
	if data := (Format{}).AppendServer(nil, s); !json.Valid(data) {
		t.Errorf("not JSON: %s", data)
	}
	wellFormed(t, Format{XML: true}.AppendServer(nil, s))
	equal(t, string(AppendOverrides(nil, map[string]Status{"i": OutOfService})), `{"i":"OUT_OF_SERVICE"}`)
}

func wellFormed(t *testing.T, data []byte) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(data))
	for {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("%v in %s", err, data)
		}
	}
}
