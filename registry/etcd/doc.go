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
package etcd
