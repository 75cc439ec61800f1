// Command fargo does with github.com/hudl/fargo, a client of Eureka's, what a test tells it: it reads orders from
// standard input, one a line in JSON, and prints an answer to each. It is a module of its own, so that Sluice's needs
// no client of Eureka's.
//
//	fargo [-json] URL
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hudl/fargo"
)

// order says what to do; which of the fields count depends on that.
type order struct {
	Do string

	App, ID, Host, IP  string
	Port, SecurePort   int
	VIP, SecureVIP     string
	Renewal, Duration  int32 // of the lease, in seconds
	Metadata           map[string]string
	Key, Value, Status string
	Every              int // milliseconds
}

// answer is what came of it.
type answer struct {
	Error     string     `json:",omitempty"`
	Instances []instance `json:",omitempty"`
	Counts    *counts    `json:",omitempty"`
}

// instance is one as the client understood it.
type instance struct {
	App, ID, Host, IP string
	Port, SecurePort  int
	Status, Override  string
	VIP, SecureVIP    string
	Metadata          map[string]string
}

// counts is what has happened since the start.
type counts struct {
	Registered int // successfully
	Heartbeats int // of them
	Unknown    int // heartbeats of an instance that the server did not know
	Failed     int // heartbeats and fetches that came to nothing
	Fetches    int // that came to something
	Least      int // the fewest instances that are up in one of them; -1: there was none
}

// client is a connection and what is registered through it. fargo's methods are not for concurrent use.
type client struct {
	mu     sync.Mutex // guards all
	e      fargo.EurekaConnection
	known  []order // that registered; fargo's own copy becomes what the server answers
	counts counts
	silent chan struct{} // ends the heartbeats; nil: there are none
}

func main() {
	asJSON := flag.Bool("json", false, "speak JSON, not XML")
	flag.Parse()
	c := &client{e: fargo.NewConn(flag.Arg(0)), counts: counts{Least: -1}}
	c.e.UseJson = *asJSON
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var o order
		var a answer
		err := json.Unmarshal(lines.Bytes(), &o)
		if err == nil {
			a, err = c.do(o)
		}
		if err != nil {
			a.Error = err.Error()
		}
		if err := out.Encode(a); err != nil {
			os.Exit(1)
		}
	}
}

func (c *client) do(o order) (a answer, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch o.Do {
	case "register":
		return a, c.register(o)
	case "reregister":
		return a, c.e.ReregisterInstance(newInstance(o))
	case "keep":
		c.silent = make(chan struct{})
		go every(o.Every, c.silent, c.heartbeats)
	case "silence":
		close(c.silent)
		c.silent = nil
	case "heartbeat":
		return a, c.e.HeartBeatInstance(&fargo.Instance{App: o.App, InstanceId: o.ID})
	case "status":
		return a, c.e.UpdateInstanceStatus(&fargo.Instance{App: o.App, InstanceId: o.ID}, fargo.StatusType(o.Status))
	case "metadata":
		return a, c.e.AddMetadataString(&fargo.Instance{App: o.App, InstanceId: o.ID}, o.Key, o.Value)
	case "cancel":
		return a, c.cancel(o)
	case "follow":
		go every(o.Every, nil, func() { c.fetch(o.VIP) })
	case "counts":
		now := c.counts
		a.Counts = &now
	default:
		return c.look(o)
	}
	return a, nil
}

// every does something again and again until stop is closed.
func every(milliseconds int, stop chan struct{}, do func()) {
	tick := time.NewTicker(time.Duration(milliseconds) * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			do()
		}
	}
}

func newInstance(o order) *fargo.Instance {
	i := &fargo.Instance{
		InstanceId: o.ID, App: o.App, HostName: o.Host, IPAddr: o.IP, VipAddress: o.VIP, SecureVipAddress: o.SecureVIP,
		Status: fargo.UP, Port: o.Port, PortEnabled: true, SecurePort: o.SecurePort,
		HomePageUrl:    fmt.Sprintf("http://%s:%d/", o.Host, o.Port),
		DataCenterInfo: fargo.DataCenterInfo{Name: fargo.MyOwn},
		LeaseInfo:      fargo.LeaseInfo{RenewalIntervalInSecs: o.Renewal, DurationInSecs: o.Duration},
	}
	for key, value := range o.Metadata {
		i.SetMetadataString(key, value)
	}
	return i
}

// register registers an instance that the server does not know yet.
func (c *client) register(o order) error {
	if err := c.e.RegisterInstance(newInstance(o)); err != nil {
		return err
	}
	c.counts.Registered++
	c.known = append(c.known, o)
	return nil
}

// heartbeats sends one for each instance, and registers those again that the server does not know, as users of fargo
// do.
func (c *client) heartbeats() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range c.known {
		i := newInstance(o)
		err := c.e.HeartBeatInstance(i)
		switch code, answered := fargo.HTTPResponseStatusCode(err); {
		case err == nil:
			c.counts.Heartbeats++
		case answered && code == http.StatusNotFound:
			c.counts.Unknown++
			if err := c.e.ReregisterInstance(i); err != nil {
				c.counts.Failed++
				continue
			}
			c.counts.Registered++
		default:
			c.counts.Failed++
		}
	}
}

// fetch asks for the instances of a VIP that are up.
func (c *client) fetch(vip string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	list, err := c.e.GetInstancesByVIPAddress(vip, false, fargo.ThatAreUp)
	if err != nil {
		c.counts.Failed++
		return
	}
	c.counts.Fetches++
	if c.counts.Least < 0 || len(list) < c.counts.Least {
		c.counts.Least = len(list)
	}
}

func (c *client) cancel(o order) error {
	c.known = slices.DeleteFunc(c.known, func(k order) bool { return k.App == o.App && k.ID == o.ID })
	return c.e.DeregisterInstance(&fargo.Instance{App: o.App, InstanceId: o.ID})
}

// look reads the registry.
func (c *client) look(o order) (a answer, err error) {
	var list []*fargo.Instance
	switch o.Do {
	case "instance":
		var i *fargo.Instance
		if i, err = c.e.GetInstance(o.App, o.ID); err == nil {
			list = append(list, i)
		}
	case "app":
		var app *fargo.Application
		if app, err = c.e.GetApp(o.App); err == nil {
			list = app.Instances
		}
	case "apps":
		var apps map[string]*fargo.Application
		apps, err = c.e.GetApps()
		for _, app := range apps {
			list = append(list, app.Instances...)
		}
	case "vip":
		list, err = c.e.GetInstancesByVIPAddress(o.VIP, false)
	case "svip":
		list, err = c.e.GetInstancesByVIPAddress(o.SecureVIP, true)
	default:
		err = errors.New("cannot do " + o.Do)
	}
	for _, i := range list {
		told, err := tell(i)
		if err != nil {
			return a, err
		}
		a.Instances = append(a.Instances, told)
	}
	return a, err
}

func tell(i *fargo.Instance) (instance, error) {
	told := instance{
		App: i.App, ID: i.InstanceId, Host: i.HostName, IP: i.IPAddr, Status: string(i.Status), Override: string(i.Overriddenstatus),
		VIP: i.VipAddress, SecureVIP: i.SecureVipAddress, Metadata: map[string]string{},
	}
	if i.PortEnabled {
		told.Port = i.Port
	}
	if i.SecurePortEnabled {
		told.SecurePort = i.SecurePort
	}
	if _, err := i.Metadata.GetString(""); err != nil { // reads what came
		return told, err
	}
	for key := range i.Metadata.GetMap() {
		if key == "@class" {
			continue // of none, as the server writes it
		}
		value, err := i.Metadata.GetString(key)
		if err != nil {
			return told, fmt.Errorf("metadata %s of %s: %w", key, i.InstanceId, err)
		}
		told.Metadata[key] = value
	}
	return told, nil
}
