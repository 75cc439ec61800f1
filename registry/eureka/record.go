package eureka

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"strconv"
	"strings"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/eureka/wire"
)

// The names of the two ports that Eureka knows.
const (
	portName       = "http"
	securePortName = "https"
)

// The keys of metadata that are fields of the registry's instances.
const (
	zoneKey    = "zone"
	versionKey = "version"
	weightKey  = "weight"
)

// record is what only this protocol knows of an instance (registry.Instance.Eureka). Times are in milliseconds since 1970.
type record struct {
	App string `json:"app"`
	// Nameless: the registrant gave no instance id, and is not told one.
	Nameless   bool              `json:"nameless,omitempty"`
	IPAddr     string            `json:"ipAddr"`
	Port       int               `json:"port"`
	SecurePort int               `json:"securePort"`
	CountryID  int               `json:"countryId"`
	DataCenter string            `json:"dataCenter"`
	Amazon     map[string]string `json:"amazon,omitempty"` // metadata of that data center
	Renewal    int               `json:"renewal"`          // interval in seconds
	Duration   int               `json:"duration"`         // of the lease, in seconds, as asked for
	LastDirty  int64             `json:"lastDirty"`
	Up         int64             `json:"up,omitempty"` // when it first was
	Action     wire.Action       `json:"action"`
	// Held is an override UP of an instance that says that it is not up, which counts for more. It is in force again
	// when the instance says that it is.
	Held wire.Status `json:"held,omitempty"`

	AppGroup          string `json:"appGroup,omitempty"`
	HomePage          string `json:"homePage,omitempty"`
	StatusPage        string `json:"statusPage,omitempty"`
	HealthCheck       string `json:"healthCheck,omitempty"`
	SecureHealthCheck string `json:"secureHealthCheck,omitempty"`
	VIP               string `json:"vip,omitempty"`
	SecureVIP         string `json:"secureVip,omitempty"`
	ASG               string `json:"asg,omitempty"`
	Coordinating      bool   `json:"coordinating,omitempty"`
}

// recordOf reads what is recorded of an instance; nil: it did not come by this protocol, or belongs to another service
// by what is recorded.
func recordOf(i *registry.Instance) *record {
	if len(i.Eureka) == 0 {
		return nil
	}
	r := &record{}
	if json.Unmarshal(i.Eureka, r) != nil || !r.valid() || serviceName(r.App) != i.Service {
		return nil
	}
	return r
}

// valid reports whether the record is one of ours. Others can write one too, and of a word that they do not know many
// clients fail.
func (r *record) valid() bool {
	known := r.DataCenter == wire.Netflix || r.DataCenter == wire.Amazon || r.DataCenter == wire.MyOwn
	_, status := wire.ParseStatus(string(r.Held))
	return known && (status || r.Held == "") && (r.Action == wire.Added || r.Action == wire.Modified) &&
		strings.TrimSpace(r.App) != "" && r.App == strings.ToUpper(r.App)
}

// store puts the record into an instance.
func (r *record) store(i *registry.Instance) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	i.Eureka = data
	return nil
}

// newRecord keeps of an instance what the registry has no field for.
func newRecord(w *wire.Instance) *record {
	return &record{
		App: w.App, Nameless: w.InstanceID == "", IPAddr: w.IPAddr, Port: w.Port.Number, SecurePort: w.SecurePort.Number,
		CountryID: w.CountryID, DataCenter: w.DataCenter.Name, Amazon: w.DataCenter.Metadata,
		Renewal: w.Lease.Renewal, Duration: w.Lease.Duration, LastDirty: w.LastDirty, Action: wire.Added,
		AppGroup: w.AppGroup, HomePage: w.HomePage, StatusPage: w.StatusPage, HealthCheck: w.HealthCheck,
		SecureHealthCheck: w.SecureHealthCheck, VIP: w.VIP, SecureVIP: w.SecureVIP, ASG: w.ASG, Coordinating: w.Coordinating,
	}
}

// instanceOf makes an instance of the registry of one that registers. Its record is not in it yet.
func instanceOf(namespace string, w *wire.Instance) registry.Instance {
	i := registry.Instance{
		InstanceID: registry.InstanceID{Namespace: namespace, Service: serviceName(w.App), ID: w.ID()},
		Addresses:  addressesOf(w.IPAddr),
		Host:       w.HostName,
		Lease:      uint32(min(w.Lease.Duration, registry.MaxInstanceLease)),
		Status:     registry.InstanceStatus(w.Status),
	}
	add := func(name string, p wire.Port) {
		if p.Enabled && p.Number >= 1 && p.Number <= math.MaxUint16 && (len(i.Ports) == 0 || int(i.Ports[0].Port) != p.Number) {
			i.Ports = append(i.Ports, registry.EndpointPort{Name: name, Protocol: registry.TCP, Port: uint16(p.Number)})
		}
	}
	add(portName, w.Port)
	add(securePortName, w.SecurePort)
	setMetadata(&i, w.Metadata)
	if i.Zone == "" && w.DataCenter != nil {
		i.Zone = w.DataCenter.Metadata["availability-zone"]
	}
	return i
}

// addressesOf reads an instance's address. A text that is none makes it nobody's backend.
func addressesOf(text string) []netip.Addr {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return nil
	}
	return []netip.Addr{a.Unmap().WithZone("")}
}

// setMetadata sets metadata and the fields of the registry that some of it means.
func setMetadata(i *registry.Instance, m map[string]string) {
	i.Metadata = m
	i.Zone, i.Version = m[zoneKey], m[versionKey]
	if w, err := strconv.ParseUint(m[weightKey], 10, 16); err == nil && w <= registry.MaxWeight {
		weight := uint16(w)
		i.Weight = &weight
	}
}

// wireOf is an instance as this protocol tells of it. The status is the one that is stored, see storedStatus.
func wireOf(i *registry.Instance, r *record) *wire.Instance {
	if r == nil {
		return foreign(i)
	}
	w := &wire.Instance{
		InstanceID: i.ID, HostName: cmp.Or(i.Host, r.IPAddr), App: r.App, IPAddr: ipAddr(i, r.IPAddr),
		Status: storedStatus(i), Overridden: override(i, r),
		Port: wire.Port{Number: r.Port}, SecurePort: wire.Port{Number: r.SecurePort},
		CountryID: r.CountryID, DataCenter: &wire.DataCenter{Name: r.DataCenter, Metadata: r.Amazon},
		Lease:    wire.Lease{Renewal: r.Renewal, Duration: r.Duration, Registered: milli(i.Registered), Renewed: milli(i.Updated), Up: r.Up},
		Metadata: i.Metadata,
		AppGroup: r.AppGroup, HomePage: r.HomePage, StatusPage: r.StatusPage, HealthCheck: r.HealthCheck,
		SecureHealthCheck: r.SecureHealthCheck, VIP: r.VIP, SecureVIP: r.SecureVIP, ASG: r.ASG, Coordinating: r.Coordinating,
		LastUpdated: milli(i.Updated), LastDirty: r.LastDirty, Action: r.Action,
	}
	if r.Nameless {
		w.InstanceID = ""
	}
	setPorts(w, i.Ports)
	return w
}

// foreign is an instance that registered in another way. Its application is its service, and so are its VIP names.
func foreign(i *registry.Instance) *wire.Instance {
	w := &wire.Instance{
		InstanceID: i.ID, App: strings.ToUpper(i.Service), IPAddr: ipAddr(i, ""),
		Status: storedStatus(i), Overridden: override(i, nil),
		Port: wire.Port{Number: wire.DefaultPort}, SecurePort: wire.Port{Number: wire.DefaultSecurePort},
		CountryID: 1, DataCenter: &wire.DataCenter{Name: wire.MyOwn},
		Lease: wire.Lease{
			Renewal: wire.DefaultRenewal, Duration: cmp.Or(int(i.Lease), wire.DefaultDuration),
			Registered: milli(i.Registered), Renewed: milli(i.Updated), Up: milli(i.Registered),
		},
		Metadata: describe(i), VIP: i.Service,
		LastUpdated: milli(i.Updated), LastDirty: milli(i.Updated), Action: wire.Added,
	}
	if w.IPAddr == "" {
		w.IPAddr = cmp.Or(i.Host, "0.0.0.0")
	}
	w.HostName = cmp.Or(i.Host, w.IPAddr)
	setPorts(w, i.Ports)
	if w.SecurePort.Enabled {
		w.SecureVIP = i.Service
	}
	return w
}

// ipAddr is the address to tell: as was said, unless the instance has another one since.
func ipAddr(i *registry.Instance, said string) string {
	first := ""
	for _, a := range i.Addresses {
		if a.String() == said {
			return said
		}
		if first == "" || a.Is4() {
			first = a.String()
		}
	}
	if had := addressesOf(said); first == "" || len(had) > 0 && len(i.Addresses) > 0 && had[0] == i.Addresses[0] {
		return said
	}
	return first
}

// setPorts tells of the ports that the instance has now: of TCP the one that is called https, and the first other one.
func setPorts(w *wire.Instance, ports []registry.EndpointPort) {
	for _, p := range ports {
		at := &w.Port
		if p.Name == securePortName {
			at = &w.SecurePort
		}
		if p.Protocol == registry.TCP && !at.Enabled {
			*at = wire.Port{Number: int(p.Port), Enabled: true}
		}
	}
}

// describe adds to the metadata what the protocol has no field for.
func describe(i *registry.Instance) map[string]string {
	m := maps.Clone(i.Metadata)
	add := func(key, value string) {
		if _, said := m[key]; said || value == "" {
			return
		}
		if m == nil {
			m = make(map[string]string, 3)
		}
		m[key] = value
	}
	add(zoneKey, i.Zone)
	add(versionKey, i.Version)
	if i.Weight != nil {
		add(weightKey, strconv.Itoa(int(*i.Weight)))
	}
	return m
}

func milli(t interface {
	UnixMilli() int64
	IsZero() bool
}) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
