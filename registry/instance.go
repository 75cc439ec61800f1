package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"net/netip"
	"time"
)

// InstanceID identifies one instance of a service.
type InstanceID struct {
	Namespace string `json:"namespace"`
	Service   string `json:"service"`
	ID        string `json:"id"` // of the registrant's choice, such as HOST:SERVICE:PORT
}

// String returns NAMESPACE/SERVICE/ID.
func (id InstanceID) String() string { return id.Namespace + "/" + id.Service + "/" + id.ID }

// ServiceName is the name of the service that the instance belongs to.
func (id InstanceID) ServiceName() Name { return Name{Namespace: id.Namespace, Name: id.Service} }

// Compare orders instances by namespace, service, id.
func (id InstanceID) Compare(o InstanceID) int {
	return cmp.Or(cmp.Compare(id.Namespace, o.Namespace), cmp.Compare(id.Service, o.Service), cmp.Compare(id.ID, o.ID))
}

// Instance is a process that registered itself as one of a service. While it is up, its lease is renewed and its
// checks pass, it is a backend of the service of that name.
type Instance struct {
	InstanceID
	// Addresses holds at most one per IP family.
	Addresses []netip.Addr `json:"addresses"`
	// Host is the name that the registrant goes by; may be empty. Nobody looks it up.
	Host string `json:"host,omitempty"`
	// Ports by name. A service that is made for its first instance has these ports, in this order.
	Ports []EndpointPort `json:"ports,omitempty"`
	// Weight is its share of new flows, relative to the others'; nil: DefaultWeight.
	Weight   *uint16           `json:"weight,omitempty"`
	Node     string            `json:"node,omitempty"` // that it runs on; "": not known
	Zone     string            `json:"zone,omitempty"` // "": that of the node
	Version  string            `json:"version,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	// Status is what the instance says of itself. Override is what an operator says instead; "": nothing.
	Status   InstanceStatus `json:"status"`
	Override InstanceStatus `json:"override,omitempty"`
	// Lease is for how many seconds after its last renewal the instance counts as alive; 0: for good.
	Lease  uint32        `json:"lease,omitempty"`
	Checks []HealthCheck `json:"checks,omitempty"`
	// Registered is when it first came up or was first written; Updated when it last changed.
	Registered time.Time `json:"registered,omitzero"`
	Updated    time.Time `json:"updated,omitzero"`
	// Eureka is what only Eureka's protocol knows of the instance, in registry/eureka's form; may be empty.
	Eureka json.RawMessage `json:"eureka,omitempty"`
}

// Effective returns the status that counts: the operator's, if there is one.
func (i *Instance) Effective() InstanceStatus { return cmp.Or(i.Override, i.Status) }

// InstanceStatus is a phase in the life of an instance. The words are Eureka's, and Draining.
type InstanceStatus string

// The statuses. Only an instance that is up takes new flows; one that is draining keeps what it has.
const (
	InstanceStarting     InstanceStatus = "STARTING"
	InstanceUp           InstanceStatus = "UP"
	InstanceDraining     InstanceStatus = "DRAINING"
	InstanceOutOfService InstanceStatus = "OUT_OF_SERVICE"
	InstanceDown         InstanceStatus = "DOWN"
	InstanceUnknown      InstanceStatus = "UNKNOWN"
)

// InstanceStatuses returns all of them.
func InstanceStatuses() []InstanceStatus {
	return []InstanceStatus{
		InstanceStarting, InstanceUp, InstanceDraining, InstanceOutOfService, InstanceDown, InstanceUnknown,
	}
}

// CheckType says how an instance is asked whether it is well.
type CheckType string

// The types of checks.
const (
	CheckTCP  CheckType = "tcp"  // a connection is accepted
	CheckHTTP CheckType = "http" // a GET is answered as wanted; "https" with TLS
	CheckGRPC CheckType = "grpc" // grpc.health.v1.Health/Check answers SERVING
	CheckExec CheckType = "exec" // a command on the agent's node exits with 0; off unless the node allows it
)

// HealthCheck is asked of an instance by the agent nearest to it.
type HealthCheck struct {
	Type CheckType `json:"type"`
	Port uint16    `json:"port,omitempty"` // 0: the instance's first

	// Of CheckHTTP: TLS without a look at the certificate's name, the path, the host header ("": the address), the
	// statuses that are well (empty: 200 to 299) and a regular expression that the body's first 64 KiB must match.
	TLS    bool   `json:"tls,omitempty"`
	Path   string `json:"path,omitempty"`
	Host   string `json:"host,omitempty"`
	Status []int  `json:"status,omitempty"`
	Body   string `json:"body,omitempty"`
	// Service is what CheckGRPC asks for; "": the whole server.
	Service string `json:"service,omitempty"`
	// Command is that of CheckExec, with its arguments.
	Command []string `json:"command,omitempty"`

	// Interval and Timeout in milliseconds; 0: 10 000 and 2 000. Each interval is up to a tenth shorter, so that checks spread.
	Interval uint32 `json:"interval,omitempty"`
	Timeout  uint32 `json:"timeout,omitempty"`
	// Rise is after how many passes in a row a failing instance is well again, Fall after how many failures a well
	// one fails; 0: 1.
	Rise uint16 `json:"rise,omitempty"`
	Fall uint16 `json:"fall,omitempty"`
}

// InstanceLease exists as long as the lease of an instance that has one. When the store lets it lapse the
// instance stays until somebody deletes it: many at once are let go one after the other.
type InstanceLease struct {
	InstanceID
}

// InstanceHealth exists while the checks of an instance fail.
type InstanceHealth struct {
	InstanceID
	Node   string    `json:"node"` // that found it so
	Since  time.Time `json:"since"`
	Reason string    `json:"reason"` // of the check that failed first
}

// Registrar is a store's side that instances register with. Errors wrap ErrNotFound, ErrInvalid or ErrUnavailable.
type Registrar interface {
	// Register writes an instance and starts its lease afresh; one of the same id is replaced. The service
	// of its name is made if there is none. Without an override it keeps the one that it has. It returns the
	// instance as stored and the revision from which on it is known.
	Register(ctx context.Context, i Instance) (Instance, int64, error)
	// Renew starts the lease afresh. It writes no object.
	Renew(ctx context.Context, id InstanceID) error
	// Update changes an instance in one transaction; edit may be called several times. The lease is left alone.
	Update(ctx context.Context, id InstanceID, edit func(*Instance) error) (Instance, int64, error)
	// Deregister removes an instance, its lease and what is known of its health.
	Deregister(ctx context.Context, id InstanceID) (int64, error)
}
