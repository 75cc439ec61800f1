package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/tests/nstest"
)

const (
	scale = 0.2 // of the maps: a dump is quick, and flows outlast the TIME_WAIT of all calls
	count = 300 // calls per family and protocol
	cpu   = 1   // where all containers run, so that round trips hold no wake-up of an idle CPU
	port  = 80  // of the service
)

const service = `apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports:
  - {name: web, protocol: TCP, port: 80, targetPort: 8080}
  - {name: web-udp, protocol: UDP, port: 80, targetPort: 8080}
`

// demo is what the story needs to remember.
type demo struct {
	node     *nstest.Node
	client   *nstest.Container
	backends []*nstest.Container
	vips     []netip.Addr // IPv4, IPv6
	times    timings
}

func (d *demo) tell(ctx context.Context) error {
	for _, part := range []func(context.Context) error{
		d.wire, d.apply, d.socketCalls, d.packetCalls, d.dump, d.isolate, d.registered, d.remove, d.kill, d.check, d.roundTrips,
	} {
		if err := part(ctx); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return err
		}
	}
	return nil
}

func (d *demo) wire(ctx context.Context) (err error) {
	heading("Test node %s runs sluiced; sluice-cni, driven by libcni, wires four containers", d.node.Name)
	t := newTable()
	defer t.print()
	if d.client, err = d.add(ctx, t, "client", nil); err != nil {
		return err
	}
	for i := range 3 {
		web, err := d.add(ctx, t, fmt.Sprintf("web-%d", i+1), map[string]string{"app": "web"})
		if err != nil {
			return err
		}
		d.backends = append(d.backends, web)
	}
	return nil
}

func (d *demo) add(ctx context.Context, t *table, name string, labels map[string]string) (*nstest.Container, error) {
	start := time.Now()
	c, err := d.node.AddContainer(ctx, nstest.Spec{Name: name, Labels: labels, CPU: cpu})
	if err != nil {
		return nil, err
	}
	var text []string
	for k, v := range labels {
		text = append(text, k+"="+v)
	}
	t.row(name, c.V4, c.V6, strings.Join(text, ","), fmt.Sprintf("in %d ms", time.Since(start).Milliseconds()))
	return c, nil
}

func (d *demo) apply(ctx context.Context) error {
	heading("sluice apply -f service.yaml     selector app=web, port 80 -> 8080, TCP and UDP")
	out, err := d.node.Sluice(ctx, service, "apply", "-f", "-")
	if err != nil {
		return err
	}
	indent(out)
	svc, err := d.node.API().Service(ctx, registry.Name{Namespace: "default", Name: "web"})
	if err != nil {
		return err
	}
	d.vips = svc.VIPs
	return nil
}

func (d *demo) socketCalls(ctx context.Context) error {
	heading("%d calls each to the VIPs, translated at connect and sendmsg: who answered", count)
	if err := d.calls(ctx); err != nil {
		return err
	}
	return d.times.measure(ctx, d, "socket")
}

func (d *demo) packetCalls(ctx context.Context) error {
	heading("the same with socketTranslation: false, so that tc translates packets")
	if err := d.restart(ctx, true); err != nil {
		return err
	}
	if err := d.calls(ctx); err != nil {
		return err
	}
	if err := d.times.measure(ctx, d, "tc"); err != nil {
		return err
	}
	return d.restart(ctx, false)
}

// restart gives the agent another configuration; the containers notice nothing.
func (d *demo) restart(ctx context.Context, noSocket bool) error {
	return d.node.Restart(ctx, nstest.Settings{MapScale: scale, NoSocketTranslation: noSocket})
}

// callKinds are what a client may do: both protocols, both families.
func (d *demo) callKinds() []nstest.Call {
	var kinds []nstest.Call
	for _, network := range []string{"tcp", "udp"} {
		for _, vip := range d.vips {
			kinds = append(kinds, nstest.Call{Net: network, To: netip.AddrPortFrom(vip, port)})
		}
	}
	return kinds
}

func (d *demo) calls(ctx context.Context) error {
	t := newTable()
	defer t.print()
	t.row("", "", d.backends[0].Name, d.backends[1].Name, d.backends[2].Name, "failed")
	for _, call := range d.callKinds() {
		call.Count = count
		r, err := d.client.Call(ctx, call)
		if err != nil {
			return err
		}
		answers := []any{strings.ToUpper(call.Net), call.To}
		for _, b := range d.backends {
			answers = append(answers, r.Answers[b.Name])
			if r.Answers[b.Name] == 0 {
				err = errors.Join(err, fmt.Errorf("%s never answered calls to %s", b.Name, call.To))
			}
		}
		t.row(append(answers, r.Failed)...)
		if r.Failed > 0 {
			err = errors.Join(err, fmt.Errorf("a call to %s failed: %s", call.To, r.Failures[0].Error))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// load runs calls of every kind, and TCP on one lasting connection, while something happens.
type load struct {
	callers []*nstest.Caller
}

func (d *demo) startLoad(ctx context.Context, lasting bool) (*load, error) {
	l := &load{}
	kinds := d.callKinds()
	if lasting {
		for _, call := range kinds {
			call.Keep, call.Connect = true, true
			kinds = append(kinds, call)
		}
	}
	for _, call := range kinds {
		call.Gap = 2 * time.Millisecond // leaves the CPU to others
		caller, err := d.client.Caller(call)
		if err != nil {
			return nil, err
		}
		l.callers = append(l.callers, caller)
	}
	return l, l.more(ctx)
}

// more waits until each kind of call has been made often once more.
func (l *load) more(ctx context.Context) error {
	return nstest.More(ctx, 200, l.callers...)
}

// stop returns how many calls were made and how many of those that began since then failed.
func (l *load) stop(since time.Time) (calls, failed int, err error) {
	for _, c := range l.callers {
		r, serr := c.Stop()
		calls += r.Calls
		bad := r.FailedSince(since)
		failed += len(bad)
		if len(bad) > 0 && err == nil {
			err = fmt.Errorf("a call failed: %s", bad[0].Error)
		}
		err = errors.Join(err, serr)
	}
	return calls, failed, err
}

func (d *demo) remove(ctx context.Context) error {
	gone := d.backends[2]
	heading("%s is removed by DEL while calls go on", gone.Name)
	l, err := d.startLoad(ctx, false)
	if err != nil {
		return err
	}
	if err := gone.Delete(ctx); err != nil {
		return err
	}
	after := time.Now()
	if err := l.more(ctx); err != nil {
		return err
	}
	calls, failed, err := l.stop(after)
	fmt.Printf("  %d calls, failed after it had gone: %d\n", calls, failed)
	d.backends = d.backends[:2]
	return err
}

func (d *demo) kill(ctx context.Context) error {
	heading("sluiced is killed with SIGKILL while calls go on, on new and on lasting connections")
	l, err := d.startLoad(ctx, true)
	if err != nil {
		return err
	}
	if err := d.node.KillAgent(); err != nil {
		return err
	}
	if err := l.more(ctx); err != nil {
		return err
	}
	if err := d.node.StartAgent(ctx); err != nil {
		return err
	}
	if err := l.more(ctx); err != nil {
		return err
	}
	calls, failed, err := l.stop(time.Time{})
	fmt.Printf("  %d calls before, while and after it was away, failed: %d\n", calls, failed)
	return err
}

func (d *demo) check(ctx context.Context) error {
	heading("sluiced is back: sluice check compares the maps with the registry")
	out, err := d.node.Sluice(ctx, "", "check")
	indent(out)
	return err
}

func indent(text []byte) {
	for line := range strings.Lines(string(text)) {
		fmt.Print("  ", line)
	}
}
