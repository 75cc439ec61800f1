package wire

import (
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"
)

// printer writes elements, indented as XStream does it unless they are compact.
type printer struct {
	b      []byte
	pretty bool
	depth  int
}

// line begins one, except at the document's beginning.
func (p *printer) line() {
	if !p.pretty || p.depth == 0 && len(p.b) == 0 {
		return
	}
	p.b = append(p.b, '\n')
	for range p.depth {
		p.b = append(p.b, "  "...)
	}
}

func (p *printer) open(name string) {
	p.line()
	p.b = append(append(append(p.b, '<'), name...), '>')
	p.depth++
}

func (p *printer) close(name string) {
	p.depth--
	p.line()
	p.b = append(append(append(p.b, "</"...), name...), '>')
}

// leave ends the application that the instance before belongs to, if there is one.
func (p *printer) leave(before string) {
	if before != "" {
		p.depth = 2
		p.close("application")
	}
}

func (p *printer) element(name, text string) {
	p.line()
	p.b = append(append(append(p.b, '<'), name...), '>')
	p.text(name, text)
}

// text writes an element's content and its end.
func (p *printer) text(name, text string) {
	p.b = appendText(p.b, text)
	p.b = append(append(append(p.b, "</"...), name...), '>')
}

func (p *printer) optional(name, text string) {
	if text != "" {
		p.element(name, text)
	}
}

func (p *printer) number(name string, value int64) { p.element(name, strconv.FormatInt(value, 10)) }

func (p *printer) port(name string, port Port) {
	p.line()
	p.b = append(append(append(p.b, '<'), name...), ` enabled="`...)
	p.b = append(strconv.AppendBool(p.b, port.Enabled), `">`...)
	p.text(name, strconv.Itoa(port.Number))
}

func (p *printer) dataCenter(d *DataCenter) {
	if d == nil {
		return
	}
	p.line()
	p.b = append(append(append(p.b, `<dataCenterInfo class="`...), d.class()...), `">`...)
	p.depth++
	p.element("name", d.Name)
	if d.Name == Amazon {
		p.strings("metadata", d.Metadata)
	}
	p.close("dataCenterInfo")
}

func (p *printer) lease(l *Lease) {
	p.open("leaseInfo")
	p.number("renewalIntervalInSecs", int64(l.Renewal))
	p.number("durationInSecs", int64(l.Duration))
	p.number("registrationTimestamp", l.Registered)
	p.number("lastRenewalTimestamp", l.Renewed)
	p.number("evictionTimestamp", l.Evicted)
	p.number("serviceUpTimestamp", l.Up)
	p.close("leaseInfo")
}

func (p *printer) strings(name string, m map[string]string) {
	p.open(name)
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if key != "" {
			p.element(escapeName(key), m[key])
		}
	}
	p.close(name)
}

func (p *printer) instance(i *Instance, compact bool) {
	p.open("instance")
	if compact {
		p.compact(i)
	} else {
		p.full(i)
	}
	p.close("instance")
}

func (p *printer) full(i *Instance) {
	p.optional("instanceId", i.InstanceID)
	p.element("hostName", i.HostName)
	p.element("app", i.App)
	p.element("ipAddr", i.IPAddr)
	p.element("status", string(i.Status))
	p.element("overriddenstatus", string(i.Overridden))
	p.port("port", i.Port)
	p.port("securePort", i.SecurePort)
	p.number("countryId", int64(i.CountryID))
	p.dataCenter(i.DataCenter)
	p.lease(&i.Lease)
	if len(i.Metadata) > 0 {
		p.strings("metadata", i.Metadata)
	} else {
		p.line()
		p.b = append(p.b, `<metadata class="`+emptyMap+`"/>`...)
	}
	p.optional("appGroupName", i.AppGroup)
	p.optional("homePageUrl", i.HomePage)
	p.optional("statusPageUrl", i.StatusPage)
	p.optional("healthCheckUrl", i.HealthCheck)
	p.optional("secureHealthCheckUrl", i.SecureHealthCheck)
	p.optional("vipAddress", i.VIP)
	p.optional("secureVipAddress", i.SecureVIP)
	p.element("isCoordinatingDiscoveryServer", strconv.FormatBool(i.Coordinating))
	p.number("lastUpdatedTimestamp", i.LastUpdated)
	p.number("lastDirtyTimestamp", i.LastDirty)
	p.optional("actionType", string(i.Action))
	p.optional("asgName", i.ASG)
}

func (p *printer) compact(i *Instance) {
	p.optional("instanceId", i.InstanceID)
	p.element("app", i.App)
	p.element("ipAddr", i.IPAddr)
	p.optional("vipAddress", i.VIP)
	p.optional("secureVipAddress", i.SecureVIP)
	p.dataCenter(i.DataCenter)
	p.element("hostName", i.HostName)
	p.element("status", string(i.Status))
	p.number("lastUpdatedTimestamp", i.LastUpdated)
	p.optional("actionType", string(i.Action))
	p.optional("asgName", i.ASG)
	p.port("port", i.Port)
	p.port("securePort", i.SecurePort)
}

// appendText escapes what XStream escapes. What XML 1.0, 2.2 allows nowhere becomes U+FFFD.
func appendText(b []byte, s string) []byte {
	from := 0
	for at := 0; at < len(s); {
		r, size := utf8.DecodeRuneInString(s[at:])
		by := ""
		switch {
		case r == '&':
			by = "&amp;"
		case r == '<':
			by = "&lt;"
		case r == '>':
			by = "&gt;"
		case r == '"':
			by = "&quot;"
		case r == '\'':
			by = "&apos;"
		case r == '\r':
			by = "&#xd;"
		case r < ' ' && r != '\t' && r != '\n', r == 0xfffe, r == 0xffff, r == utf8.RuneError && size == 1:
			by = "\uFFFD"
		}
		if by != "" {
			b = append(append(b, s[from:at]...), by...)
			from = at + size
		}
		at += size
	}
	return append(b, s[from:]...)
}
