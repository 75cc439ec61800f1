package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
)

func (c *cli) getServices(ctx context.Context, client *api.Client, s scope) error {
	if !c.output.isTable() {
		return c.getKubernetes(ctx, client, s)
	}
	all, err := client.Services(ctx, s.where())
	if err != nil {
		return err
	}
	items := slices.DeleteFunc(all, func(v api.Service) bool { return !s.wants(v.Name) })
	if err := s.found("service", len(items)); err != nil {
		return err
	}
	return c.print(nil, func(w io.Writer) {
		heads := []string{"NAME", "TYPE", "VIPS", "EXTERNAL", "PORTS", "BACKENDS", "AFFINITY"}
		if c.output == wide {
			heads = append(heads, "ALGORITHM", "TRAFFIC", "ENDPOINTS", "SELECTOR")
		}
		row(w, s.columns(heads...)...)
		for _, v := range items {
			cells := []string{serviceType(v.Type), vips(&v), external(&v), ports(v.Ports), backends(&v), affinity(&v)}
			if c.output == wide {
				cells = append(cells, string(v.Algorithm), traffic(&v), strconv.Itoa(v.Endpoints), labels(v.Selector))
			}
			row(w, s.cells(v.Name, cells...)...)
		}
	})
}

func serviceType(t registry.ServiceType) string {
	if t == registry.TypeClusterIP {
		return "ClusterIP"
	}
	return string(t)
}

func vips(v *api.Service) string {
	if v.Headless {
		return "None"
	}
	return list(v.VIPs)
}

// external is how a service is reached beside its VIPs, or the name that it stands for.
func external(v *api.Service) string {
	if v.ExternalName != "" {
		return v.ExternalName
	}
	return list(slices.Concat(v.ExternalIPs, v.LoadBalancerIPs))
}

// ports writes 80->8080/TCP, or 80/TCP when both are equal; with a node port 80:30080->8080/TCP.
func ports(all []api.Port) string {
	text := make([]string, len(all))
	for i, p := range all {
		from := strconv.Itoa(int(p.Port))
		if p.NodePort != 0 {
			from += ":" + strconv.Itoa(int(p.NodePort))
		}
		switch {
		case p.TargetName != "":
			text[i] = fmt.Sprintf("%s->%s/%s", from, p.TargetName, p.Protocol)
		case p.TargetPort != p.Port:
			text[i] = fmt.Sprintf("%s->%d/%s", from, p.TargetPort, p.Protocol)
		default:
			text[i] = fmt.Sprintf("%s/%s", from, p.Protocol)
		}
	}
	return strings.Join(text, ",")
}

// backends counts those that take new flows at a port, and those that only drain: at the port and of the IP family that
// has most, as backends have one of each as a rule. Of a service without a VIP it counts all that stand behind it.
func backends(v *api.Service) string {
	switch {
	case v.Type == registry.TypeExternalName:
		return ""
	case len(v.VIPs) == 0:
		return strconv.Itoa(v.Endpoints)
	}
	active, draining := 0, 0
	for _, p := range v.Ports {
		count := map[[2]bool]int{} // by IPv4 and draining
		for _, b := range p.Backends {
			count[[2]bool{b.Address.Addr().Is4(), b.Draining}]++
		}
		for _, four := range []bool{true, false} {
			active, draining = max(active, count[[2]bool{four, false}]), max(draining, count[[2]bool{four, true}])
		}
	}
	text := strconv.Itoa(active)
	if draining > 0 {
		text += fmt.Sprintf(" (+%d draining)", draining)
	}
	return text
}

func affinity(v *api.Service) string {
	if v.AffinityTimeout == 0 {
		return "None"
	}
	return fmt.Sprintf("ClientIP %ds", v.AffinityTimeout)
}

// traffic names the policies that are not the default ones.
func traffic(v *api.Service) string {
	var words []string
	if v.InternalLocal {
		words = append(words, "internal=Local")
	}
	if v.ExternalLocal {
		words = append(words, "external=Local")
	}
	if v.Distribution != registry.DistributeEvenly {
		words = append(words, string(v.Distribution))
	}
	if v.PublishNotReady {
		words = append(words, "unready too")
	}
	return strings.Join(words, ",")
}
