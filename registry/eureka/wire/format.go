package wire

import (
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"
)

// Format is a form that documents are written in.
type Format struct {
	XML     bool
	Compact bool // only what is needed to call an instance
}

// Formats returns all of them.
func Formats() []Format {
	return []Format{{}, {Compact: true}, {XML: true}, {XML: true, Compact: true}}
}

// ContentType is what a document in the format is called in HTTP.
func (f Format) ContentType() string {
	if f.XML {
		return "application/xml"
	}
	return "application/json"
}

// Versions of answers about many instances. Clients that see none, or -1, never ask for deltas.
const (
	VersionFull   = 1
	VersionLookup = -1 // of answers about a VIP
)

// AppendHead begins a document of many instances. hash is that of the whole registry, also in a delta; version is a
// number that rises with each delta. AppendEntry for each instance and AppendTail follow.
func (f Format) AppendHead(b []byte, version int64, hash string) []byte {
	if f.XML {
		p := printer{b: b, pretty: !f.Compact}
		p.open("applications")
		p.element("versions__delta", strconv.FormatInt(version, 10))
		p.element("apps__hashcode", hash)
		return p.b
	}
	b = append(b, `{"applications":{"versions__delta":"`...)
	b = strconv.AppendInt(b, version, 10)
	b = append(b, `","apps__hashcode":`...)
	b = appendString(b, hash)
	return append(b, `,"application":[`...)
}

// AppendEntry writes one instance of a document of many, which is sorted by application. before is the application of
// the instance before it; "": it is the first.
func (f Format) AppendEntry(b []byte, before string, i *Instance) []byte {
	if f.XML {
		p := printer{b: b, pretty: !f.Compact, depth: 1}
		if before != i.App {
			p.leave(before)
			p.open("application")
			p.element("name", i.App)
		} else {
			p.depth++
		}
		p.instance(i, f.Compact)
		return p.b
	}
	switch before {
	case i.App:
		b = append(b, ',')
	case "":
		b = openApplication(b, i.App)
	default:
		b = openApplication(append(b, `]},`...), i.App)
	}
	return f.appendJSON(b, i)
}

// AppendTail ends a document of many instances. before is the application of the last; "": there is none.
func (f Format) AppendTail(b []byte, before string) []byte {
	if f.XML {
		p := printer{b: b, pretty: !f.Compact, depth: 1}
		p.leave(before)
		p.close("applications")
		return p.b
	}
	if before != "" {
		b = append(b, `]}`...)
	}
	return append(b, `]}}`...)
}

// AppendApplications writes a document of many instances, which are sorted by application.
func (f Format) AppendApplications(b []byte, a *Applications) []byte {
	b = f.AppendHead(b, a.Version, a.Hash)
	before := ""
	for _, i := range a.Instances {
		b = f.AppendEntry(b, before, i)
		before = i.App
	}
	return f.AppendTail(b, before)
}

// AppendApplication writes a document of one application.
func (f Format) AppendApplication(b []byte, name string, list []*Instance) []byte {
	if f.XML {
		p := printer{b: b, pretty: !f.Compact}
		p.open("application")
		p.element("name", name)
		for _, i := range list {
			p.instance(i, f.Compact)
		}
		p.close("application")
		return p.b
	}
	b = openApplication(append(b, `{"application":`...), name)
	for at, i := range list {
		if at > 0 {
			b = append(b, ',')
		}
		b = f.appendJSON(b, i)
	}
	return append(b, `]}}`...)
}

// AppendInstance writes a document of one instance.
func (f Format) AppendInstance(b []byte, i *Instance) []byte {
	if f.XML {
		p := printer{b: b, pretty: !f.Compact}
		p.instance(i, f.Compact)
		return p.b
	}
	return append(f.appendJSON(append(b, `{"instance":`...), i), '}')
}

func openApplication(b []byte, name string) []byte {
	b = appendString(append(b, `{"name":`...), name)
	return append(b, `,"instance":[`...)
}

func (f Format) appendJSON(b []byte, i *Instance) []byte {
	if f.Compact {
		return appendCompact(b, i)
	}
	return appendFull(b, i)
}

// appendFull writes what the reference's codec writes, in its order: numbers are texts where it has them as texts.
func appendFull(b []byte, i *Instance) []byte {
	o := objectWriter{b: append(b, '{')}
	o.optional("instanceId", i.InstanceID)
	o.text("hostName", i.HostName)
	o.text("app", i.App)
	o.text("ipAddr", i.IPAddr)
	o.text("status", string(i.Status))
	o.text("overriddenStatus", string(i.Overridden))
	o.port("port", i.Port)
	o.port("securePort", i.SecurePort)
	o.number("countryId", int64(i.CountryID))
	o.dataCenter(i.DataCenter)
	o.lease(&i.Lease)
	o.metadata(i.Metadata)
	o.optional("appGroupName", i.AppGroup)
	o.optional("homePageUrl", i.HomePage)
	o.optional("statusPageUrl", i.StatusPage)
	o.optional("healthCheckUrl", i.HealthCheck)
	o.optional("secureHealthCheckUrl", i.SecureHealthCheck)
	o.optional("vipAddress", i.VIP)
	o.optional("secureVipAddress", i.SecureVIP)
	o.text("isCoordinatingDiscoveryServer", strconv.FormatBool(i.Coordinating))
	o.text("lastUpdatedTimestamp", strconv.FormatInt(i.LastUpdated, 10))
	o.text("lastDirtyTimestamp", strconv.FormatInt(i.LastDirty, 10))
	o.optional("actionType", string(i.Action))
	o.optional("asgName", i.ASG)
	return append(o.b, '}')
}

// appendCompact writes the few fields that the compact codec keeps, in its order; the time is a number in it.
func appendCompact(b []byte, i *Instance) []byte {
	o := objectWriter{b: append(b, '{')}
	o.optional("instanceId", i.InstanceID)
	o.text("app", i.App)
	o.text("ipAddr", i.IPAddr)
	o.optional("vipAddress", i.VIP)
	o.optional("secureVipAddress", i.SecureVIP)
	o.dataCenter(i.DataCenter)
	o.text("hostName", i.HostName)
	o.text("status", string(i.Status))
	o.number("lastUpdatedTimestamp", i.LastUpdated)
	o.optional("actionType", string(i.Action))
	o.optional("asgName", i.ASG)
	o.port("port", i.Port)
	o.port("securePort", i.SecurePort)
	return append(o.b, '}')
}

// objectWriter writes the members of an object.
type objectWriter struct{ b []byte }

// key writes a member's name, which needs no escaping.
func (o *objectWriter) key(name string) {
	if o.b[len(o.b)-1] != '{' {
		o.b = append(o.b, ',')
	}
	o.b = append(append(append(o.b, '"'), name...), '"', ':')
}

func (o *objectWriter) text(name, value string) {
	o.key(name)
	o.b = appendString(o.b, value)
}

func (o *objectWriter) optional(name, value string) {
	if value != "" {
		o.text(name, value)
	}
}

func (o *objectWriter) number(name string, value int64) {
	o.key(name)
	o.b = strconv.AppendInt(o.b, value, 10)
}

func (o *objectWriter) port(name string, p Port) {
	o.key(name)
	o.b = append(o.b, '{')
	o.number("$", int64(p.Number))
	o.text("@enabled", strconv.FormatBool(p.Enabled))
	o.b = append(o.b, '}')
}

func (o *objectWriter) dataCenter(d *DataCenter) {
	if d == nil {
		return
	}
	o.key("dataCenterInfo")
	o.b = append(o.b, '{')
	o.text("@class", d.class())
	o.text("name", d.Name)
	if d.Name == Amazon {
		o.key("metadata")
		o.strings(d.Metadata)
	}
	o.b = append(o.b, '}')
}

func (o *objectWriter) lease(l *Lease) {
	o.key("leaseInfo")
	o.b = append(o.b, '{')
	o.number("renewalIntervalInSecs", int64(l.Renewal))
	o.number("durationInSecs", int64(l.Duration))
	o.number("registrationTimestamp", l.Registered)
	o.number("lastRenewalTimestamp", l.Renewed)
	o.number("evictionTimestamp", l.Evicted)
	o.number("serviceUpTimestamp", l.Up)
	o.b = append(o.b, '}')
}

// emptyMap is the class by which the reference tells of an empty map of metadata.
const emptyMap = "java.util.Collections$EmptyMap"

func (o *objectWriter) metadata(m map[string]string) {
	o.key("metadata")
	if len(m) == 0 {
		m = map[string]string{"@class": emptyMap}
	}
	o.strings(m)
}

func (o *objectWriter) strings(m map[string]string) {
	o.b = append(o.b, '{')
	for at, key := range slices.Sorted(maps.Keys(m)) {
		if at > 0 {
			o.b = append(o.b, ',')
		}
		o.b = append(appendString(o.b, key), ':')
		o.b = appendString(o.b, m[key])
	}
	o.b = append(o.b, '}')
}

// appendString writes a text as Jackson does: nothing is escaped but what must be.
func appendString(b []byte, s string) []byte {
	const digits = "0123456789ABCDEF"
	b = append(b, '"')
	from := 0
	for at := 0; at < len(s); {
		c := s[at]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[at:])
			if r == utf8.RuneError && size == 1 {
				b = append(append(b, s[from:at]...), "\uFFFD"...)
				from = at + 1
			}
			at += size
			continue
		}
		at++
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[from:at-1]...)
		from = at
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\b':
			b = append(b, '\\', 'b')
		case '\t':
			b = append(b, '\\', 't')
		case '\n':
			b = append(b, '\\', 'n')
		case '\f':
			b = append(b, '\\', 'f')
		case '\r':
			b = append(b, '\\', 'r')
		default:
			b = append(b, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		}
	}
	return append(append(b, s[from:]...), '"')
}
