package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/kube"
)

// clause is a sentence of the specification with a policy that it is about, and packets that pass and
// that do not: "FROM TO PROTOCOL/PORT", where both are tried in both families.
//
// The cluster has the containers x/a, x/b, x/c, y/a ... z/c, labelled pod=a, pod=b, pod=c; all name TCP 80
// "web", c names TCP 81 so instead, a names UDP 53 "dns". The namespaces x and z have the label team=red, y
// has team=blue and z env=prod besides. q has no object, and one container q/a. x/o, labelled pod=o, is of
// another network. 10.1.0.1 and fd00:1::1 are x/a's addresses, 10.2.0.3 and fd00:2::3 are y/c's; the world has
// 192.0.2.1 and 2001:db8::1.
type clause struct {
	says     string
	policies []string
	pass     []string
	drop     []string
}

func np(namespace, spec string) string {
	return fmt.Sprintf("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: NAME, namespace: %s}\nspec: %s", namespace, spec)
}

func anp(priority int, spec string) string {
	return fmt.Sprintf("apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: NAME}\nspec: {priority: %d, %s}", priority, spec)
}

func banp(spec string) string {
	return fmt.Sprintf("apiVersion: policy.networking.k8s.io/v1alpha1\nkind: BaselineAdminNetworkPolicy\nmetadata: {name: default}\nspec: {%s}", spec)
}

func audit(policy string) string {
	return strings.Replace(policy, "name: NAME", `annotations: {sluice.net/audit: "true"}, name: NAME`, 1)
}

var clauses = []clause{
	{
		says: "Traffic is allowed to a pod if there are no NetworkPolicies selecting the pod",
		pass: []string{"y/a x/a TCP/80", "world x/a UDP/53", "x/a world SCTP/9", "y/a x/a ICMP"},
	},
	{
		says:     "An empty podSelector matches all pods in the policy's namespace",
		policies: []string{np("x", `{podSelector: {}}`)},
		drop:     []string{"x/b x/a TCP/80", "y/a x/c TCP/80", "world x/b TCP/80"},
		pass:     []string{"x/a y/a TCP/80", "y/a z/a TCP/80"},
	},
	{
		says:     "The array of rules is applied to any pods selected by podSelector, and to no others",
		policies: []string{np("x", `{podSelector: {matchLabels: {pod: a}}}`)},
		drop:     []string{"x/b x/a TCP/80", "y/b x/a UDP/53"},
		pass:     []string{"y/a x/b TCP/80", "y/b y/a TCP/80"},
	},
	{
		says:     "If ingress is empty then this policy does not allow any traffic: pods are isolated by default",
		policies: []string{np("x", `{podSelector: {}, policyTypes: [Ingress], ingress: []}`)},
		drop:     []string{"x/b x/a TCP/80", "world x/a ICMP"},
		pass:     []string{"x/a world ICMP", "x/a y/a SCTP/80"},
	},
	{
		says:     "If egress is empty then this policy limits all outgoing traffic, when policyTypes names Egress",
		policies: []string{np("x", `{podSelector: {}, policyTypes: [Egress]}`)},
		drop:     []string{"x/a x/b TCP/80", "x/a world TCP/443", "x/a world ICMP"},
		pass:     []string{"y/a x/a TCP/80", "world x/a TCP/80"},
	},
	{
		says:     "All policies are assumed to affect ingress, if policyTypes is not specified",
		policies: []string{np("x", `{podSelector: {}, egress: [{}]}`)},
		drop:     []string{"y/a x/a TCP/80"},
		pass:     []string{"x/a y/a TCP/80", "x/a world ICMP"},
	},
	{
		says:     "Policies that contain an egress section are assumed to affect egress",
		policies: []string{np("x", `{podSelector: {}, ingress: [{}], egress: [{to: [{podSelector: {}}]}]}`)},
		drop:     []string{"x/a y/a TCP/80", "x/a world TCP/80"},
		pass:     []string{"x/a x/b TCP/80", "y/a x/a TCP/80"},
	},
	{
		says:     "An egress-only policy must explicitly specify policyTypes [Egress]",
		policies: []string{np("x", `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}]}]}`)},
		drop:     []string{"x/a y/a TCP/80"},
		pass:     []string{"y/a x/a TCP/80", "x/a x/b UDP/1"},
	},
	{
		says: "Multiple policies that select the same pods are combined additively",
		policies: []string{
			np("x", `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}`),
			np("x", `{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: c}}}]}]}`),
		},
		pass: []string{"x/b x/a TCP/80", "x/c x/a TCP/80", "x/c x/b TCP/80"},
		drop: []string{"x/a x/b TCP/80", "y/b x/a TCP/80"},
	},
	{
		says: "A policy that allows does not undo that another one isolates",
		policies: []string{
			np("x", `{podSelector: {}}`),
			np("x", `{podSelector: {}, ingress: [{ports: [{port: 80}]}]}`),
		},
		pass: []string{"y/a x/a TCP/80", "world x/a TCP/80"},
		drop: []string{"y/a x/a TCP/81", "y/a x/a UDP/80"},
	},
	{
		says:     "If from is empty or missing, this rule matches all sources",
		policies: []string{np("x", `{podSelector: {}, ingress: [{from: []}]}`)},
		pass:     []string{"x/b x/a TCP/80", "y/b x/a ICMP", "world x/a SCTP/1"},
	},
	{
		says:     "If to is empty or missing, this rule matches all destinations",
		policies: []string{np("x", `{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 80}]}]}`)},
		pass:     []string{"x/b x/a TCP/80", "x/a world TCP/80"},
		drop:     []string{"x/a world TCP/81", "x/a world ICMP"},
	},
	{
		says:     "Items in the from list are combined using a logical OR operation",
		policies: []string{np("x", `{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}, {namespaceSelector: {matchLabels: {team: blue}}}]}]}`)},
		pass:     []string{"x/b x/a TCP/80", "y/a x/a TCP/80", "y/c x/a TCP/80"},
		drop:     []string{"x/c x/a TCP/80", "z/b x/a TCP/80"},
	},
	{
		says:     "With podSelector and namespaceSelector, the pods matching in the namespaces matching",
		policies: []string{np("x", `{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}, namespaceSelector: {matchLabels: {team: blue}}}]}]}`)},
		pass:     []string{"y/b x/a TCP/80"},
		drop:     []string{"x/b x/a TCP/80", "y/a x/a TCP/80", "z/b x/a TCP/80"},
	},
	{
		says:     "podSelector alone selects the pods in the policy's own namespace",
		policies: []string{np("x", `{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}`)},
		pass:     []string{"x/b x/a TCP/80"},
		drop:     []string{"y/b x/a TCP/80", "world x/a TCP/80"},
	},
	{
		says:     "namespaceSelector alone selects all pods in the namespaces selected",
		policies: []string{np("x", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: red}}}]}]}`)},
		pass:     []string{"x/b x/a TCP/80", "z/c x/a TCP/80"},
		drop:     []string{"y/b x/a TCP/80", "q/a x/a TCP/80", "world x/a TCP/80"},
	},
	{
		says:     "A podSelector that is present but empty selects all pods, not the world",
		policies: []string{np("x", `{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}`)},
		pass:     []string{"x/b x/a TCP/80"},
		drop:     []string{"y/b x/a TCP/80", "world x/a TCP/80"},
	},
	{
		says:     "A namespaceSelector that is present but empty selects all namespaces, not the world",
		policies: []string{np("x", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}`)},
		pass:     []string{"x/b x/a TCP/80", "y/b x/a TCP/80", "q/a x/a TCP/80"},
		drop:     []string{"world x/a TCP/80"},
	},
	{
		says:     "Every namespace has the label kubernetes.io/metadata.name, also one without an object",
		policies: []string{np("x", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: q}}}]}]}`)},
		pass:     []string{"q/a x/a TCP/80"},
		drop:     []string{"y/a x/a TCP/80", "x/b x/a TCP/80"},
	},
	{
		says:     "In: the label's value is one of these",
		policies: []string{np("x", `{podSelector: {matchExpressions: [{key: pod, operator: In, values: [a, b]}]}}`)},
		drop:     []string{"y/a x/a TCP/80", "y/a x/b TCP/80"},
		pass:     []string{"y/a x/c TCP/80"},
	},
	{
		says:     "NotIn also holds when there is no such label",
		policies: []string{np("x", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [red]}]}}]}]}`)},
		pass:     []string{"y/a x/a TCP/80", "q/a x/a TCP/80"},
		drop:     []string{"x/b x/a TCP/80", "z/a x/a TCP/80"},
	},
	{
		says:     "Exists: there is such a label, whatever its value",
		policies: []string{np("x", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: Exists}]}}]}]}`)},
		pass:     []string{"y/a x/a TCP/80", "z/a x/a TCP/80"},
		drop:     []string{"q/a x/a TCP/80"},
	},
	{
		says:     "DoesNotExist: there is no such label",
		policies: []string{np("x", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: env, operator: DoesNotExist}]}}]}]}`)},
		pass:     []string{"y/a x/a TCP/80", "q/a x/a TCP/80"},
		drop:     []string{"z/a x/a TCP/80"},
	},
	{
		says:     "matchLabels and matchExpressions are ANDed",
		policies: []string{np("x", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: red}, matchExpressions: [{key: env, operator: Exists}]}}]}]}`)},
		pass:     []string{"z/a x/a TCP/80"},
		drop:     []string{"x/b x/a TCP/80", "y/a x/a TCP/80"},
	},
	{
		says:     "The traffic must match both ports and from",
		policies: []string{np("x", `{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}], ports: [{port: 80}]}]}`)},
		pass:     []string{"x/b x/a TCP/80"},
		drop:     []string{"x/b x/a TCP/81", "x/c x/a TCP/80"},
	},
	{
		says:     "If ports is empty or missing, this rule matches all ports and protocols",
		policies: []string{np("x", `{podSelector: {}, ingress: [{from: [{podSelector: {}}], ports: []}]}`)},
		pass:     []string{"x/b x/a TCP/1", "x/b x/a UDP/65535", "x/b x/a SCTP/0", "x/b x/a ICMP"},
	},
	{
		says:     "If ports has an item, only traffic that matches an item is allowed: ICMP matches none",
		policies: []string{np("x", `{podSelector: {}, ingress: [{ports: [{port: 80}, {port: 53, protocol: UDP}]}]}`)},
		pass:     []string{"y/a x/a TCP/80", "y/a x/a UDP/53"},
		drop:     []string{"y/a x/a UDP/80", "y/a x/a TCP/53", "y/a x/a ICMP"},
	},
	{
		says:     "If protocol is not specified, this field defaults to TCP",
		policies: []string{np("x", `{podSelector: {}, ingress: [{ports: [{port: 80}]}]}`)},
		pass:     []string{"y/a x/a TCP/80"},
		drop:     []string{"y/a x/a UDP/80", "y/a x/a SCTP/80"},
	},
	{
		says:     "If port is not provided, this matches all port names and numbers, of the protocol",
		policies: []string{np("x", `{podSelector: {}, ingress: [{ports: [{protocol: SCTP}]}]}`)},
		pass:     []string{"y/a x/a SCTP/1", "y/a x/a SCTP/65535"},
		drop:     []string{"y/a x/a TCP/80", "y/a x/a UDP/53"},
	},
	{
		says:     "The range of ports from port to endPort, inclusive, should be allowed",
		policies: []string{np("x", `{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 90}]}]}`)},
		pass:     []string{"y/a x/a TCP/80", "y/a x/a TCP/85", "y/a x/a TCP/90"},
		drop:     []string{"y/a x/a TCP/79", "y/a x/a TCP/91", "y/a x/a UDP/85"},
	},
	{
		says:     "A named port of ingress is the selected pod's own",
		policies: []string{np("x", `{podSelector: {}, ingress: [{ports: [{port: web}]}]}`)},
		pass:     []string{"y/c x/a TCP/80", "y/a x/c TCP/81"},
		drop:     []string{"y/c x/a TCP/81", "y/a x/c TCP/80"},
	},
	{
		says:     "A named port of egress is the destination's; the world has none",
		policies: []string{np("x", `{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: web}]}]}`)},
		pass:     []string{"x/c y/a TCP/80", "x/a y/c TCP/81"},
		drop:     []string{"x/a y/c TCP/80", "x/a world TCP/80", "x/c y/a TCP/81"},
	},
	{
		says:     "A name that the pod does not give matches nothing, and not everything",
		policies: []string{np("x", `{podSelector: {}, ingress: [{ports: [{port: dns, protocol: UDP}]}]}`)},
		pass:     []string{"y/a x/a UDP/53"},
		drop:     []string{"y/a x/b UDP/53", "y/a x/b TCP/80"},
	},
	{
		says:     "A named port is of the protocol that the policy says",
		policies: []string{np("x", `{podSelector: {}, ingress: [{ports: [{port: web, protocol: UDP}, {port: dns, protocol: TCP}]}]}`)},
		drop:     []string{"y/a x/a UDP/80", "y/a x/a TCP/80", "y/a x/a UDP/53"},
	},
	{
		says:     "ipBlock is a particular CIDR that is allowed",
		policies: []string{np("x", `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 192.0.2.0/24}}, {ipBlock: {cidr: "2001:db8::/32"}}]}]}`)},
		pass:     []string{"x/a world TCP/80"},
		drop:     []string{"x/a y/a TCP/80", "x/a 198.51.100.1 TCP/80", "x/a 3fff::1 TCP/80"},
	},
	{
		says:     "except describes CIDRs that should not be included within this rule",
		policies: []string{np("x", `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [192.0.2.0/24]}}, {ipBlock: {cidr: "::/0", except: ["2001:db8::/32"]}}]}]}`)},
		pass:     []string{"x/a 198.51.100.1 TCP/80", "x/a 3fff::1 TCP/80"},
		drop:     []string{"x/a world TCP/80"},
	},
	{
		says: "except is of its rule only: what another rule allows is allowed",
		policies: []string{np("x", `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [192.0.2.0/24]}}]},
  {to: [{ipBlock: {cidr: 192.0.2.1/32}}, {ipBlock: {cidr: "2001:db8::1/128"}}]}]}`)},
		pass: []string{"x/a 198.51.100.1 TCP/80", "x/a world TCP/80"},
		drop: []string{"x/a 192.0.2.2 TCP/80", "x/a 2001:db8::2 TCP/80"},
	},
	{
		says:     "ipBlock holds for the addresses of pods, too, and except as well",
		policies: []string{np("x", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.2.0.0/16, except: [10.2.0.3/32]}}, {ipBlock: {cidr: "fd00:2::/32", except: ["fd00:2::3/128"]}}]}]}`)},
		pass:     []string{"y/a x/a TCP/80", "y/b x/a ICMP"},
		drop:     []string{"y/c x/a TCP/80", "z/a x/a TCP/80", "x/b x/a TCP/80"},
	},
	{
		says:     "A pod that an except leaves out may be selected by another item",
		policies: []string{np("x", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.2.0.0/16]}}, {ipBlock: {cidr: "fd00::/16", except: ["fd00:2::/32"]}}, {podSelector: {matchLabels: {pod: c}}, namespaceSelector: {}}]}]}`)},
		pass:     []string{"y/c x/a TCP/80", "z/a x/a TCP/80"},
		drop:     []string{"y/a x/a TCP/80", "world x/a TCP/80"},
	},
	{
		says: "A connection needs the egress policy of its source and the ingress policy of its destination to allow it",
		policies: []string{
			np("x", `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {team: blue}}}]}]}`),
			np("y", `{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}, namespaceSelector: {}}]}]}`),
		},
		pass: []string{"x/b y/a TCP/80", "z/b y/a TCP/80"},
		drop: []string{"x/a y/a TCP/80", "x/b z/a TCP/80"},
	},
	{
		says: "Rules with lower priority values have higher precedence",
		policies: []string{
			anp(20, `subject: {namespaces: {}}, ingress: [{action: Allow, from: [{namespaces: {namespaceSelector: {}}}]}]`),
			anp(10, `subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {namespaceSelector: {matchLabels: {team: blue}}}}]}]`),
		},
		pass: []string{"x/b x/a TCP/80", "world x/a TCP/80"},
		drop: []string{"y/a x/a TCP/80"},
	},
	{
		says: "A rule that appears at the top of the rules takes the highest precedence",
		policies: []string{anp(5, `subject: {namespaces: {}}, ingress: [{action: Allow, from: [{namespaces: {namespaceSelector: {matchLabels: {team: blue}}}}], ports: [{portNumber: {protocol: TCP, port: 80}}]},
  {action: Deny, from: [{namespaces: {namespaceSelector: {matchLabels: {team: blue}}}}]}]`)},
		pass: []string{"y/a x/a TCP/80", "x/b x/a TCP/81"},
		drop: []string{"y/a x/a TCP/81", "y/a x/a ICMP"},
	},
	{
		says: "Allow: traffic will be allowed regardless of NetworkPolicy",
		policies: []string{
			anp(5, `subject: {namespaces: {}}, ingress: [{action: Allow, from: [{namespaces: {namespaceSelector: {matchLabels: {team: blue}}}}]}]`),
			np("x", `{podSelector: {}}`),
		},
		pass: []string{"y/a x/a TCP/80"},
		drop: []string{"x/b x/a TCP/80", "world x/a TCP/80"},
	},
	{
		says: "Deny: traffic is denied before being checked against NetworkPolicy",
		policies: []string{
			anp(5, `subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {namespaceSelector: {matchLabels: {team: blue}}}}]}]`),
			np("x", `{podSelector: {}, ingress: [{}]}`),
		},
		pass: []string{"x/b x/a TCP/80", "world x/a TCP/80"},
		drop: []string{"y/a x/a TCP/80"},
	},
	{
		says: "Pass: skip any remaining ANP rules, and pass execution to any NetworkPolicies that select the pod",
		policies: []string{
			anp(5, `subject: {namespaces: {}}, ingress: [{action: Pass, from: [{namespaces: {namespaceSelector: {matchLabels: {team: blue}}}}]}]`),
			anp(6, `subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {namespaceSelector: {}}}]}]`),
			np("x", `{podSelector: {}, ingress: [{ports: [{port: 80}]}]}`),
		},
		pass: []string{"y/a x/a TCP/80", "y/a z/a TCP/81"},
		drop: []string{"y/a x/a TCP/81", "x/b x/a TCP/80"},
	},
	{
		says: "If the pod is not selected by any NetworkPolicies, execution is passed to BaselineAdminNetworkPolicies",
		policies: []string{
			anp(5, `subject: {namespaces: {}}, ingress: [{action: Pass, from: [{namespaces: {namespaceSelector: {}}}]}]`),
			np("x", `{podSelector: {}, ingress: [{}]}`),
			banp(`subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {namespaceSelector: {}}}]}]`),
		},
		pass: []string{"y/a x/a TCP/80", "world z/a TCP/80"},
		drop: []string{"y/a z/a TCP/80", "z/b z/a TCP/80"},
	},
	{
		says: "BANP rules apply to pods that no NetworkPolicy isolates in that direction",
		policies: []string{
			np("x", `{podSelector: {}, policyTypes: [Egress], egress: [{}]}`),
			banp(`subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {namespaceSelector: {matchLabels: {team: red}}}}]}]`),
		},
		pass: []string{"y/a x/a TCP/80"},
		drop: []string{"x/b x/a TCP/80", "z/a x/a TCP/80"},
	},
	{
		says: "The subject's pods: namespace AND pod selectors",
		policies: []string{anp(5, `subject: {pods: {namespaceSelector: {matchLabels: {team: red}}, podSelector: {matchLabels: {pod: a}}}},
  ingress: [{action: Deny, from: [{namespaces: {namespaceSelector: {}}}]}]`)},
		pass: []string{"y/b x/b TCP/80", "x/b y/a TCP/80"},
		drop: []string{"y/b x/a TCP/80", "x/b z/a TCP/80"},
	},
	{
		says:     "ANPs with no ingress rules do not affect ingress traffic",
		policies: []string{anp(5, `subject: {namespaces: {}}, egress: [{action: Deny, to: [{pods: {namespaces: {namespaceSelector: {}}, podSelector: {matchLabels: {pod: a}}}}]}]`)},
		pass:     []string{"world x/a TCP/80", "x/a y/b TCP/80"},
		drop:     []string{"x/b y/a TCP/80"},
	},
	{
		says:     "SameLabels: all have the same value as the subject of this policy",
		policies: []string{anp(5, `subject: {namespaces: {}}, ingress: [{action: Pass, from: [{namespaces: {sameLabels: [team]}}]}, {action: Deny, from: [{namespaces: {namespaceSelector: {}}}]}]`)},
		pass:     []string{"z/a x/a TCP/80", "y/a y/b TCP/80"},
		drop:     []string{"y/a x/a TCP/80", "q/a x/a TCP/80", "x/a q/a TCP/80"},
	},
	{
		says:     "NotSameLabels: to be selected a namespace must have the label, with a different value",
		policies: []string{anp(5, `subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {notSameLabels: [team]}}]}]`)},
		pass:     []string{"z/a x/a TCP/80", "q/a x/a TCP/80", "x/a q/a TCP/80"},
		drop:     []string{"y/a x/a TCP/80", "x/a y/a TCP/80"},
	},
	{
		says:     "NotSameLabels: at least one of the labels must have a different value",
		policies: []string{anp(5, `subject: {namespaces: {}}, egress: [{action: Deny, to: [{namespaces: {notSameLabels: [kubernetes.io/metadata.name, team]}}]}]`)},
		pass:     []string{"x/b x/a TCP/80", "x/a q/a TCP/80"},
		drop:     []string{"x/a z/a TCP/80", "x/a y/a TCP/80"},
	},
	{
		says:     "NamedPort selects a port on a pod based on name, whatever its protocol",
		policies: []string{anp(5, `subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {namespaceSelector: {}}}], ports: [{namedPort: web}, {namedPort: dns}]}]`)},
		pass:     []string{"y/a x/a TCP/81", "y/a x/c TCP/80", "y/a x/b UDP/53"},
		drop:     []string{"y/a x/a TCP/80", "y/a x/c TCP/81", "y/b x/a UDP/53"},
	},
	{
		says:     "PortRange selects a port range, inclusive",
		policies: []string{anp(5, `subject: {namespaces: {}}, egress: [{action: Deny, to: [{namespaces: {namespaceSelector: {}}}], ports: [{portRange: {protocol: UDP, start: 100, end: 200}}]}]`)},
		pass:     []string{"x/a y/a UDP/99", "x/a y/a UDP/201", "x/a y/a TCP/150", "x/a world UDP/150"},
		drop:     []string{"x/a y/a UDP/100", "x/a y/a UDP/200"},
	},
	{
		says: "Networks of different names are closed to each other",
		pass: []string{"x/b x/a TCP/80", "x/o world TCP/80", "world x/o TCP/80"},
		drop: []string{"x/o x/a TCP/80", "x/a x/o ICMP"},
	},
	{
		says:     "A policy that allows without naming the network joins none",
		policies: []string{np("x", `{podSelector: {}, ingress: [{}]}`)},
		drop:     []string{"x/o x/a TCP/80"},
	},
	{
		says:     "A rule's peer that names sluice.net/network joins the networks, for what it allows",
		policies: []string{np("x", `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {sluice.net/network: other}}}], ports: [{port: 80}]}]}`)},
		pass:     []string{"x/o x/a TCP/80"},
		drop:     []string{"x/o x/a TCP/81", "x/a x/o TCP/80", "x/o x/b TCP/80", "x/b x/a TCP/80"},
	},
	{
		says: "A join of one side is not enough where the other one denies",
		policies: []string{
			anp(5, `subject: {namespaces: {}}, ingress: [{action: Allow, from: [{pods: {namespaces: {namespaceSelector: {}}, podSelector: {matchExpressions: [{key: sluice.net/network, operator: Exists}]}}}]}]`),
			np("x", `{podSelector: {matchLabels: {pod: o}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {pod: a}}}]}]}`),
		},
		pass: []string{"x/o x/a TCP/80", "x/a x/o TCP/80"},
		drop: []string{"x/o x/b TCP/80", "x/o y/a TCP/80"},
	},
	{
		says: "What only a policy in audit mode would deny passes",
		policies: []string{
			audit(np("x", `{podSelector: {}}`)),
			audit(anp(1, `subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {namespaceSelector: {}}}]}]`)),
		},
		pass: []string{"x/b x/a TCP/80", "world x/a TCP/80", "y/a z/a TCP/80"},
	},
	{
		says: "A policy in audit mode allows nothing that is denied without it",
		policies: []string{
			np("x", `{podSelector: {}}`),
			audit(np("x", `{podSelector: {}, ingress: [{}]}`)),
			audit(anp(1, `subject: {namespaces: {}}, ingress: [{action: Allow, from: [{namespaces: {namespaceSelector: {}}}]}]`)),
		},
		drop: []string{"x/b x/a TCP/80", "world x/a TCP/80"},
	},
}

// specCluster is the one that clause tells of.
func specCluster() []registry.Change {
	list := []registry.Change{
		{Namespace: &registry.Namespace{Name: "x", Labels: map[string]string{"team": "red"}}},
		{Namespace: &registry.Namespace{Name: "y", Labels: map[string]string{"team": "blue"}}},
		{Namespace: &registry.Namespace{Name: "z", Labels: map[string]string{"team": "red", "env": "prod"}}},
	}
	for name := range specNames() {
		ns, pod, _ := strings.Cut(name, "/")
		web := registry.EndpointPort{Name: "web", Protocol: registry.TCP, Port: 80}
		if pod == "c" {
			web.Port = 81
		}
		ep := &registry.Endpoint{
			EndpointID: registry.EndpointID{Node: thisNode, ContainerID: name, Interface: "eth0"},
			Name:       registry.Name{Namespace: ns, Name: pod}, Network: "net",
			Addresses: specNames()[name], Labels: map[string]string{"pod": pod}, Ports: []registry.EndpointPort{web},
		}
		switch pod {
		case "o":
			ep.Network = "other"
		case "a":
			ep.Ports = append(ep.Ports, registry.EndpointPort{Name: "dns", Protocol: registry.UDP, Port: 53})
		}
		list = append(list, registry.Change{Endpoint: ep})
	}
	return list
}

// specNames returns the containers' addresses.
func specNames() map[string][]netip.Addr {
	names := map[string][]netip.Addr{}
	for i, ns := range []string{"x", "y", "z", "q"} {
		for j, pod := range []string{"a", "b", "c", "o"} {
			if ns != "q" && (pod != "o" || ns == "x") || pod == "a" {
				names[ns+"/"+pod] = []netip.Addr{
					netip.MustParseAddr(fmt.Sprintf("10.%d.0.%d", i+1, j+1)), netip.MustParseAddr(fmt.Sprintf("fd00:%d::%d", i+1, j+1)),
				}
			}
		}
	}
	return names
}

func specAddresses(t *testing.T, name string) []netip.Addr {
	t.Helper()
	if name == "world" {
		return []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	}
	if list, ok := specNames()[name]; ok {
		return list
	}
	a, err := netip.ParseAddr(name)
	if err != nil {
		t.Fatal(err)
	}
	return []netip.Addr{a}
}

// TestSpecification reads the clauses aloud.
func TestSpecification(t *testing.T) {
	for _, c := range clauses {
		t.Run(c.says, func(t *testing.T) {
			e := New(thisNode)
			changes := specCluster()
			for i, text := range c.policies {
				objects, err := kube.Parse([]byte(strings.Replace(text, "name: NAME", fmt.Sprint("name: p", i), 1)))
				if err != nil {
					t.Fatal(err)
				}
				changes = append(changes, registry.Change{Policy: objects[0].Policy})
			}
			e.Apply(changes, true)
			for _, packet := range c.pass {
				checkPacket(t, e, packet, true)
			}
			for _, packet := range c.drop {
				checkPacket(t, e, packet, false)
			}
		})
	}
}

// checkPacket tries FROM TO PROTOCOL/PORT in the families that both have.
func checkPacket(t *testing.T, e *Engine, packet string, want bool) {
	t.Helper()
	words := strings.Fields(packet)
	name, number, _ := strings.Cut(words[2], "/")
	port, _ := strconv.Atoi(number)
	tried := 0
	for _, src := range specAddresses(t, words[0]) {
		for _, dst := range specAddresses(t, words[1]) {
			if src.Is4() != dst.Is4() {
				continue
			}
			proto := map[string]uint8{"TCP": 6, "UDP": 17, "SCTP": 132, "ICMP": 1}[name]
			if proto == 1 && src.Is6() {
				proto = 58
			}
			tried++
			if got := e.passes(src, dst, proto, uint16(port)); got != want {
				t.Errorf("%s (%v to %v): passes: %v", packet, src, dst, got)
			}
		}
	}
	if tried == 0 {
		t.Errorf("%s: nothing was tried", packet)
	}
}
