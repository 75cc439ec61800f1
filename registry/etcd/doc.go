// Package etcd keeps the registry in etcd, run inside this process: one member, its data in one
// directory, and no listener but a unix socket for etcdctl.
//
// Keys, all below /sluice/v1/, with JSON values:
//
//	services/NAMESPACE/NAME            a service with its VIPs
//	slices/NAMESPACE/NAME              backends of a service that are listed, not selected
//	vips/ADDRESS                       which services have which ports of the address
//	nodeports/PROTOCOL/PORT            which service has the node port
//	endpoints/NODE/CONTAINER/INTERFACE a wired container interface
//	nodes/NAME                         a node
//	namespaces/NAME                    a namespace's labels
//	policies/KIND/NAMESPACE/NAME       a NetworkPolicy; KIND/NAME is one of a cluster-wide tier
//	instances/NAMESPACE/SERVICE/ID     an instance that registered itself
//	leases/NAMESPACE/SERVICE/ID        attached to the etcd lease of the instance's duration: there while it is alive
//	health/NAMESPACE/SERVICE/ID        there while the instance's checks fail
//
// An instance and its lease are two keys so that an instance outlives its lease: see expire.go.
package etcd
