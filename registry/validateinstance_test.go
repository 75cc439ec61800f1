package registry

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func wholeInstance() Instance {
	weight := uint16(3)
	return Instance{
		InstanceID: InstanceID{Namespace: "default", Service: "web", ID: "host.example:web:8080"},
		Addresses:  []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")},
		Host:       "host.example", Node: "n1", Zone: "z1", Version: "1.0 β", Weight: &weight,
		Ports: []EndpointPort{
			{Name: "http", Protocol: TCP, Port: 8080}, {Name: "quic", Protocol: UDP, Port: 8080}, {Protocol: TCP, Port: 9},
		},
		Metadata: map[string]string{"a": "line\nline", "b": ""},
		Status:   InstanceUp, Override: InstanceDraining, Lease: 30,
		Checks: []HealthCheck{
			{Type: CheckTCP},
			{Type: CheckHTTP, TLS: true, Path: "/health", Host: "x", Status: []int{200, 204}, Body: "^ok$", Interval: 1000},
			{Type: CheckGRPC, Service: "a.b.C", Port: 9, Timeout: 100, Rise: 2, Fall: 3},
			{Type: CheckExec, Command: []string{"/bin/true", ""}},
		},
		Eureka: []byte(`{"app":"WEB"}`),
	}
}

func TestValidateInstance(t *testing.T) {
	whole := wholeInstance()
	if err := whole.Validate(); err != nil {
		t.Fatal(err)
	}
	bare := Instance{InstanceID: whole.InstanceID, Status: InstanceDown}
	if err := bare.Validate(); err != nil {
		t.Errorf("an instance with no more than a name: %v", err)
	}
	long := strings.Repeat("x", 5000)
	many := map[string]string{}
	for n := range MaxMetadata + 1 {
		many[fmt.Sprint(n)] = ""
	}
	for want, spoil := range map[string]func(*Instance){
		`namespace: "De"`:           func(i *Instance) { i.Namespace = "De" },
		`service: "a.b"`:            func(i *Instance) { i.Service = "a.b" },
		`service: "-a"`:             func(i *Instance) { i.Service = "-a" },
		"service: \"xxx":            func(i *Instance) { i.Service = long },
		"id: empty":                 func(i *Instance) { i.ID = "" },
		"id: \"a/b\"":               func(i *Instance) { i.ID = "a/b" },
		"id: \"a\\nb\"":             func(i *Instance) { i.ID = "a\nb" },
		"id: \"a\\xff\"":            func(i *Instance) { i.ID = "a\xff" },
		"id: \"xxx":                 func(i *Instance) { i.ID = long },
		"host: ":                    func(i *Instance) { i.Host = long },
		"node: ":                    func(i *Instance) { i.Node = "\x00" },
		"version: ":                 func(i *Instance) { i.Version = long },
		`status: ""`:                func(i *Instance) { i.Status = "" },
		`override: "up"`:            func(i *Instance) { i.Override = "up" },
		"weight: 257":               func(i *Instance) { i.Weight = new(uint16(257)) },
		"lease: 86401":              func(i *Instance) { i.Lease = 86401 },
		"eureka: not JSON":          func(i *Instance) { i.Eureka = []byte("{") },
		"eureka: 32769 bytes":       func(i *Instance) { i.Eureka = make([]byte, MaxInstanceEureka+1) },
		"addresses: 3 of them":      func(i *Instance) { i.Addresses = append(i.Addresses, i.Addresses[0]) },
		"addresses[1]: 10.0.0.2 is": func(i *Instance) { i.Addresses[1] = netip.MustParseAddr("10.0.0.2") },
		"addresses[0]: not":         func(i *Instance) { i.Addresses[0] = netip.Addr{} },
		"write it as 10.0.0.1":      func(i *Instance) { i.Addresses[0] = netip.MustParseAddr("::ffff:10.0.0.1") },
		"write it as fe80::1":       func(i *Instance) { i.Addresses[1] = netip.MustParseAddr("fe80::1%eth0") },
		"ports: 65 of them":         func(i *Instance) { i.Ports = make([]EndpointPort, 65) },
		"ports[0].port":             func(i *Instance) { i.Ports[0].Port = 0 },
		"ports[0].protocol":         func(i *Instance) { i.Ports[0].Protocol = 1 },
		"ports[0].name":             func(i *Instance) { i.Ports[0].Name = "HTTP" },
		"8080/TCP is given twice":   func(i *Instance) { i.Ports[2].Port = 8080 },
		`"http" is given twice`:     func(i *Instance) { i.Ports[1].Name = "http" },
		"metadata: 257 entries":     func(i *Instance) { i.Metadata = many },
		`metadata[""]`:              func(i *Instance) { i.Metadata[""] = "x" },
		`metadata["x"]: want`:       func(i *Instance) { i.Metadata["x"] = long },
		`metadata["x"]: not UTF-8`:  func(i *Instance) { i.Metadata["x"] = "\xff" },
		"metadata: 40": func(i *Instance) {
			for n := range 10 {
				i.Metadata[fmt.Sprint(n)] = long[:MaxMetadataValue]
			}
		},
		"checks: 9 of them":           func(i *Instance) { i.Checks = make([]HealthCheck, 9) },
		"checks[0].type":              func(i *Instance) { i.Checks[0].Type = "icmp" },
		"checks[0].type: tcp":         func(i *Instance) { i.Checks[0].Path = "/" },
		"checks[0].port":              func(i *Instance) { i.Ports = nil },
		"checks[0].service":           func(i *Instance) { i.Checks[0].Service = "x" },
		"checks[0].command":           func(i *Instance) { i.Checks[0].Command = []string{"x"} },
		"checks[0].interval: 99":      func(i *Instance) { i.Checks[0].Interval = 99 },
		"checks[0].timeout: 10001 ms": func(i *Instance) { i.Checks[0].Timeout = 10001 },
		"checks[0].rise":              func(i *Instance) { i.Checks[0].Rise = 1001 },
		"checks[1].path":              func(i *Instance) { i.Checks[1].Path = "health" },
		"checks[1].host":              func(i *Instance) { i.Checks[1].Host = "a\r\nb" },
		"checks[1].status":            func(i *Instance) { i.Checks[1].Status[0] = 600 },
		"checks[1].body: 513":         func(i *Instance) { i.Checks[1].Body = long[:513] },
		"checks[1].body: error":       func(i *Instance) { i.Checks[1].Body = "(" },
		"checks[2].service: ":         func(i *Instance) { i.Checks[2].Service = long },
		"checks[3].command: exec":     func(i *Instance) { i.Checks[3].Command = nil },
		"checks[3].command: 1 arg":    func(i *Instance) { i.Checks[3].Command = []string{long} },
		"checks[3].command: want":     func(i *Instance) { i.Checks[3].Command[1] = "\x00" },
	} {
		i := wholeInstance()
		spoil(&i)
		if err := i.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %s", err, want)
		}
	}
}

func TestNewService(t *testing.T) {
	i := Instance{
		InstanceID: InstanceID{Namespace: "a", Service: "b", ID: "c"}, Status: InstanceUp,
		Ports: []EndpointPort{
			{Protocol: TCP, Port: 53}, {Protocol: UDP, Port: 53}, {Name: "http", Protocol: TCP, Port: 80},
			{Name: "port-99", Protocol: TCP, Port: 1}, {Name: "port-99-udp", Protocol: TCP, Port: 2}, {Protocol: UDP, Port: 99},
		},
	}
	i.NamePorts()
	var names []string
	for _, p := range i.Ports {
		names = append(names, p.Name)
	}
	if got := strings.Join(names, " "); got != "port-53 port-53-udp http port-99 port-99-udp " {
		t.Errorf("the ports are named %s", got)
	}
	if err := i.Validate(); err != nil {
		t.Error(err)
	}
	svc := i.NewService().Service
	if err := svc.Validate(); err != nil || svc.Name.String() != "a/b" || svc.Labels[RegisteredLabel] != "true" || len(svc.Ports) != 6 {
		t.Errorf("service %+v: %v", svc, err)
	}
	if p := svc.Ports[1]; p != (ServicePort{Name: "port-53-udp", Protocol: UDP, Port: 53, TargetName: "port-53-udp"}) {
		t.Errorf("port %+v", p)
	}
	if p := svc.Ports[5]; p != (ServicePort{Protocol: UDP, Port: 99, TargetPort: 99}) {
		t.Errorf("port %+v", p)
	}
}
