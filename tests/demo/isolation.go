package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// isolation lets nobody but front to the web containers; the client is not front until it is given the
// label.
const isolation = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {role: front}}}]
    ports: [{port: 8080}, {port: 8080, protocol: UDP}]
`

// unanswered is how long a call waits that nobody is to answer.
const unanswered = 300 * time.Millisecond

func (d *demo) isolate(ctx context.Context) error {
	heading("sluice apply -f policy.yaml     only role=front may reach app=web, on port 8080; the client has no role")
	out, err := d.node.Sluice(ctx, isolation, "apply", "-f", "-")
	if err != nil {
		return err
	}
	indent(out)
	if err := d.try(ctx, false); err != nil {
		return err
	}
	heading("sluice why %s web:80", d.client.ID)
	out, err = d.node.Sluice(ctx, "", "why", d.client.ID, "web:80")
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		return err
	}
	indent(out)
	heading("sluice label %s role=front", d.client.ID)
	if _, err = d.node.Sluice(ctx, "", "label", d.client.ID, "role=front"); err != nil {
		return err
	}
	if err := d.try(ctx, true); err != nil {
		return err
	}
	_, err = d.node.Sluice(ctx, isolation, "delete", "-f", "-")
	return err
}

// try calls the VIPs once in each way.
func (d *demo) try(ctx context.Context, want bool) error {
	t := newTable()
	defer t.print()
	for _, call := range d.callKinds() {
		call.Count, call.Timeout = 1, unanswered
		r, err := d.client.Call(ctx, call)
		if err != nil {
			return err
		}
		says := "no answer"
		if r.Failed == 0 {
			says = "answered by " + first(r.Answers)
		}
		t.row(strings.ToUpper(call.Net), call.To, says)
		if (r.Failed == 0) != want {
			return fmt.Errorf("a call to %s: %s", call.To, says)
		}
	}
	return nil
}

func first(answers map[string]int) string {
	for name := range answers {
		return name
	}
	return "nobody"
}
