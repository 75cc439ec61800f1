package policy

// adminClauses are of policy.networking.k8s.io/v1alpha1 AdminNetworkPolicy and BaselineAdminNetworkPolicy.
var adminClauses = []clause{
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
		pass:     []string{"z/a x/a TCP/80", "q/a x/a TCP/80"},
		drop:     []string{"y/a x/a TCP/80", "x/a y/a TCP/80"},
	},
	{
		says:     "NotSameLabels: a subject's namespace without the label has another value than any that has it",
		policies: []string{anp(5, `subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {notSameLabels: [team]}}]}], egress: [{action: Deny, to: [{namespaces: {notSameLabels: [env]}}]}]`)},
		pass:     []string{"q/a x/a TCP/80", "z/b z/a TCP/80"},
		drop:     []string{"x/a q/a TCP/80", "y/a q/a UDP/53", "x/a z/a TCP/80", "q/a z/a ICMP"},
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
}

// ownClauses are Sluice's own: networks and audit mode.
var ownClauses = []clause{
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
		says:     "A rule's peer that requires a value of sluice.net/network joins the networks, for what it allows",
		policies: []string{np("x", `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {sluice.net/network: other}}}], ports: [{port: 80}]}]}`)},
		pass:     []string{"x/o x/a TCP/80"},
		drop:     []string{"x/o x/a TCP/81", "x/a x/o TCP/80", "x/o x/b TCP/80", "x/b x/a TCP/80"},
	},
	{
		says: "NotIn, Exists and DoesNotExist restrict the peers, and join no networks",
		policies: []string{
			np("x", `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchExpressions: [{key: sluice.net/network, operator: NotIn, values: [guest]}]}}]}]}`),
			np("x", `{podSelector: {matchLabels: {pod: b}}, ingress: [{from: [{podSelector: {matchExpressions: [{key: sluice.net/network, operator: Exists}]}}]}]}`),
			np("x", `{podSelector: {matchLabels: {pod: c}}, ingress: [{from: [{podSelector: {matchExpressions: [{key: sluice.net/network, operator: DoesNotExist}]}}]}]}`),
			np("y", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: sluice.net/network, operator: NotIn, values: [net]}]}}]}]}`),
		},
		pass: []string{"x/b x/a TCP/80", "x/a x/b TCP/80"},
		drop: []string{"x/o x/a TCP/80", "x/o x/b TCP/80", "x/o x/c TCP/80", "x/a x/c TCP/80", "x/a y/a TCP/80", "x/o y/a TCP/80"},
	},
	{
		says: "A join of one side is not enough where the other one denies",
		policies: []string{
			anp(5, `subject: {namespaces: {}}, ingress: [{action: Allow, from: [{pods: {namespaces: {namespaceSelector: {}}, podSelector: {matchExpressions: [{key: sluice.net/network, operator: In, values: [net, other]}]}}}]}]`),
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
