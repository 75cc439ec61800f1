package wire

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// ParseInstance reads a document that holds one instance, in JSON or XML. Errors wrap ErrSyntax.
func ParseInstance(data []byte, xml bool) (*Instance, error) {
	r := reader{xml: xml}
	root, err := r.read(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	n := root.get("instance")
	if n == nil || n.kind != object {
		return nil, fmt.Errorf("%w: no instance in it", ErrSyntax)
	}
	return n.instance(xml)
}

// Applications is what a server answers about its whole registry, or what of it changed.
type Applications struct {
	Version   int64 // of the delta; see Format.AppendHead
	Hash      string
	Instances []*Instance
}

// ReadApplications reads instances one after the other and hands each to take, whose error ends it. What in returns
// may be as long as it likes; only one instance is held. Instances that cannot be understood are left out; skipped says
// how many. Errors wrap ErrSyntax, except those of take.
func ReadApplications(in io.Reader, xml bool, take func(*Instance) error) (head Applications, skipped int, err error) {
	var taken error
	r := reader{xml: xml, within: "application", items: "instance", item: func(n *node) error {
		i, err := n.instance(xml)
		if err != nil {
			skipped++
			return nil
		}
		taken = take(i)
		return taken
	}}
	root, err := r.read(in)
	if taken != nil {
		return head, skipped, taken
	}
	if err != nil {
		return head, skipped, err
	}
	n := root.get("applications")
	if n == nil || n.kind != object {
		return head, skipped, fmt.Errorf("%w: no applications in it", ErrSyntax)
	}
	head.Version, _ = strconv.ParseInt(n.str("versions__delta"), 10, 64)
	head.Hash = n.str("apps__hashcode")
	return head, skipped, nil
}

// instance reads an instance. Fields that nobody knows do not matter.
func (n *node) instance(xml bool) (*Instance, error) {
	f := fields{node: n, xml: xml}
	i := &Instance{
		InstanceID: f.text("instanceId"),
		HostName:   f.text("hostName"),
		App:        strings.ToUpper(f.text("app")),
		IPAddr:     f.text("ipAddr"),
		Status:     f.status("status", Up),
		Overridden: f.status("overriddenStatus", f.status("overriddenstatus", Unknown)),
		Port:       f.port("port", Port{DefaultPort, true}),
		SecurePort: f.port("securePort", Port{DefaultSecurePort, false}),
		CountryID:  int(f.number("countryId", 1, math.MaxInt32)),
		DataCenter: f.dataCenter(),
		Lease:      f.lease(),
		Metadata:   f.strings("metadata"),

		AppGroup:          strings.ToUpper(f.text("appGroupName")),
		HomePage:          f.text("homePageUrl"),
		StatusPage:        f.text("statusPageUrl"),
		HealthCheck:       f.text("healthCheckUrl"),
		SecureHealthCheck: f.text("secureHealthCheckUrl"),
		VIP:               f.text("vipAddress"),
		SecureVIP:         f.text("secureVipAddress"),
		ASG:               f.text("asgName"),
		Coordinating:      strings.EqualFold(f.text("isCoordinatingDiscoveryServer"), "true"),

		LastUpdated: f.number("lastUpdatedTimestamp", 0, math.MaxInt64),
		LastDirty:   f.number("lastDirtyTimestamp", 0, math.MaxInt64),
	}
	if a := Action(f.text("actionType")); a == Added || a == Modified || a == Deleted {
		i.Action = a
	}
	if f.err == nil && i.App == "" {
		f.fail("app", "is missing")
	}
	return i, f.err
}

// fields reads those of one object and remembers the first that is wrong.
type fields struct {
	*node
	xml bool
	err error
}

func (f *fields) fail(name, format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf("%w: %s %s", ErrSyntax, name, fmt.Sprintf(format, args...))
	}
}

// text returns a scalar. XML's may have space around it.
func (f *fields) text(name string) string {
	s := f.str(name)
	if f.xml {
		s = strings.TrimSpace(s)
	}
	return s
}

// status reads a word, which in XML may be in any case; one that is no status is Unknown.
func (f *fields) status(name string, absent Status) Status {
	if f.get(name) == nil {
		return absent
	}
	s := f.text(name)
	if f.xml {
		s = strings.ToUpper(s)
	}
	status, _ := ParseStatus(s)
	return status
}

// number reads an integer of 0 to most, written as one, as a text, or with a fraction, which is dropped.
func (f *fields) number(name string, absent, most int64) int64 {
	s := f.text(name)
	if s == "" {
		return absent
	}
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		var x float64
		if x, err = strconv.ParseFloat(s, 64); err == nil && math.Abs(x) < math.MaxInt64 {
			v = int64(x)
		} else {
			f.fail(name, "%.32q is no number", s)
		}
	}
	if v > most {
		f.fail(name, "%d: want %d at most", v, most)
	}
	return max(v, 0)
}

// port reads {"$":N,"@enabled":B} or <port enabled="B">N</port>.
func (f *fields) port(name string, p Port) Port {
	n := f.get(name)
	if n == nil {
		return p
	}
	in := fields{node: n, xml: f.xml}
	number := "$"
	if f.xml {
		in.node = &node{kids: append([]node{{name: number, kind: scalar, text: n.text}}, n.kids...)}
	} else if n.kind != object {
		f.fail(name, "is no object")
		return p
	}
	p.Number = int(in.number(number, int64(p.Number), math.MaxInt32))
	if s := in.text("@enabled"); s != "" {
		p.Enabled = strings.EqualFold(s, "true")
	}
	if in.err != nil {
		f.fail(name, "is no port: %v", in.err)
	}
	return p
}

// classes are those of data centers that the reference knows.
var classes = []string{
	"com.netflix.appinfo.AmazonInfo",
	"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
	"com.netflix.appinfo.MyDataCenterInfo",
}

func (f *fields) dataCenter() *DataCenter {
	const name = "dataCenterInfo"
	n := f.get(name)
	if n == nil {
		return nil
	}
	in := fields{node: n, xml: f.xml}
	if class := in.text("@class"); !f.xml && !slices.Contains(classes, class) {
		f.fail(name, "has the @class %.64q: want one of %v", class, classes)
	}
	d := &DataCenter{Name: in.text("name")}
	switch d.Name {
	case Amazon:
		d.Metadata = in.strings("metadata")
	case Netflix, MyOwn, "":
	default:
		f.fail(name, "has the name %.32q: want Netflix, Amazon or MyOwn", d.Name)
	}
	return d
}

func (f *fields) lease() Lease {
	l := Lease{Renewal: DefaultRenewal, Duration: DefaultDuration}
	n := f.get("leaseInfo")
	if n == nil {
		return l
	}
	in := fields{node: n, xml: f.xml}
	if v := in.number("renewalIntervalInSecs", 0, math.MaxInt32); v > 0 {
		l.Renewal = int(v)
	}
	if v := in.number("durationInSecs", 0, math.MaxInt32); v > 0 {
		l.Duration = int(v)
	}
	l.Registered = in.number("registrationTimestamp", 0, math.MaxInt64)
	l.Renewed = in.number("lastRenewalTimestamp", 0, math.MaxInt64)
	l.Evicted = in.number("evictionTimestamp", 0, math.MaxInt64)
	l.Up = in.number("serviceUpTimestamp", 0, math.MaxInt64)
	if in.err != nil {
		f.fail("leaseInfo", "is none: %v", in.err)
	}
	return l
}

// strings returns the scalars of an object by their keys, as they are written; nil if there are none. XML's are elements,
// not attributes, and have their names escaped.
func (f *fields) strings(name string) map[string]string {
	n := f.get(name)
	if n == nil {
		return nil
	}
	var m map[string]string
	for _, k := range n.kids {
		if k.kind != scalar || k.name == "" || k.name == "@class" || f.xml && k.name[0] == '@' {
			continue
		}
		if m == nil {
			m = make(map[string]string, len(n.kids))
		}
		if f.xml {
			k.name = unescapeName(k.name)
		}
		m[k.name] = k.text
	}
	return m
}
