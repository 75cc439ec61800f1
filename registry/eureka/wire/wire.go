// Package wire reads and writes what Eureka's clients and servers send each other: instances, applications,
// deltas and the batches of peers, in JSON and XML, full and compact.
//
// It reads what the reference server tolerates and writes exactly the fields that that server writes, in its order:
// some clients refuse a field that they do not know, and others one that is missing. It knows no HTTP and holds no state.
package wire

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// ErrSyntax is wrapped by errors about a document that cannot be understood.
var ErrSyntax = errors.New("cannot be parsed")

// Status is what an instance is said to be. Clients know these words and no others.
type Status string

// The statuses.
const (
	Up           Status = "UP"
	Down         Status = "DOWN"
	Starting     Status = "STARTING"
	OutOfService Status = "OUT_OF_SERVICE"
	Unknown      Status = "UNKNOWN"
)

// ParseStatus reads one of the five words as it is written.
func ParseStatus(s string) (Status, bool) {
	switch st := Status(s); st {
	case Up, Down, Starting, OutOfService, Unknown:
		return st, true
	}
	return Unknown, false
}

// Action says what happened to an instance last.
type Action string

// The actions. A client that applies a delta adds or replaces instances for the first two, and removes them for the third.
const (
	Added    Action = "ADDED"
	Modified Action = "MODIFIED"
	Deleted  Action = "DELETED"
)

// The defaults of the reference.
const (
	DefaultPort       = 7001
	DefaultSecurePort = 7002
	DefaultRenewal    = 30 // seconds
	DefaultDuration   = 90 // seconds
)

// Port is one of the two ports that an instance has.
type Port struct {
	Number  int
	Enabled bool
}

// DataCenter says where an instance runs.
type DataCenter struct {
	Name     string            // one of DataCenterNames
	Metadata map[string]string // of Amazon only
}

// The names of data centers.
const (
	Netflix = "Netflix"
	Amazon  = "Amazon"
	MyOwn   = "MyOwn"
)

// class is the Java class that stands for the data center in JSON and XML.
func (d *DataCenter) class() string {
	if d.Name == Amazon {
		return "com.netflix.appinfo.AmazonInfo"
	}
	return "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo"
}

// Lease holds an instance's lease. The durations are in seconds, the times in milliseconds since 1970; 0: never.
type Lease struct {
	Renewal, Duration                int
	Registered, Renewed, Evicted, Up int64
}

// Instance is one instance with every field that the protocol has. Texts that are empty were not given, and are not written.
type Instance struct {
	InstanceID string // see ID
	HostName   string
	App        string // in upper case
	IPAddr     string
	Status     Status
	Overridden Status // Unknown: nobody says otherwise than the instance
	Port       Port
	SecurePort Port
	CountryID  int
	DataCenter *DataCenter // nil: not given, which a registration must
	Lease      Lease
	Metadata   map[string]string

	AppGroup          string // in upper case
	HomePage          string
	StatusPage        string
	HealthCheck       string
	SecureHealthCheck string
	VIP               string // names, separated by commas
	SecureVIP         string
	ASG               string
	Coordinating      bool

	// LastUpdated is the server's time of the last change, LastDirty the client's, in milliseconds since 1970; 0: not given.
	LastUpdated int64
	LastDirty   int64
	Action      Action
}

// ID is what the instance is called in paths: its id if it was given one, else what the data center calls it, else its
// host. Spring's oldest clients have theirs in the metadata.
func (i *Instance) ID() string {
	if i.InstanceID != "" {
		return i.InstanceID
	}
	if id := i.Metadata["instanceId"]; id != "" {
		if strings.HasPrefix(id, i.HostName) {
			return id
		}
		return i.HostName + ":" + id
	}
	if i.DataCenter != nil && i.DataCenter.Metadata["instance-id"] != "" {
		return i.DataCenter.Metadata["instance-id"]
	}
	return i.HostName
}

// Check returns why an instance cannot be registered below the path of app, in the reference's words and order; nil if it can.
func (i *Instance) Check(app string) error {
	blank := func(s string) bool { return strings.TrimSpace(s) == "" }
	reason := ""
	switch {
	case blank(i.ID()):
		reason = "Missing instanceId"
	case blank(i.HostName):
		reason = "Missing hostname"
	case blank(i.IPAddr):
		reason = "Missing ip address"
	case blank(i.App):
		reason = "Missing appName"
	case i.App != app:
		reason = "Mismatched appName, expecting " + app + " but was " + i.App
	case i.DataCenter == nil:
		reason = "Missing dataCenterInfo"
	case i.DataCenter.Name == "":
		reason = "Missing dataCenterInfo Name"
	default:
		return nil
	}
	return errors.New(reason)
}

// Compare orders instances by application and id.
func (i *Instance) Compare(o *Instance) int {
	return cmp.Or(cmp.Compare(i.App, o.App), cmp.Compare(i.ID(), o.ID()))
}

// Counts says how many instances have each status.
type Counts map[Status]int

// Hash returns the text by which a client that has applied a delta sees whether it has what the server has: NAME_COUNT_
// for each status that some instance has, in order of the names.
func (c Counts) Hash() string {
	var b []byte
	for _, s := range slices.Sorted(maps.Keys(c)) {
		if n := c[s]; n > 0 {
			b = append(append(b, s...), '_')
			b = append(strconv.AppendInt(b, int64(n), 10), '_')
		}
	}
	return string(b)
}
