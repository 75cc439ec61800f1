package wire

import (
	"bytes"
	"fmt"
	"strconv"
)

// MaxBatch is how many tasks a batch may hold. The reference sends 250 at most.
const MaxBatch = 1000

// TaskAction says what a peer tells of.
type TaskAction string

// What peers tell of.
const (
	TaskRegister     TaskAction = "Register"
	TaskHeartbeat    TaskAction = "Heartbeat"
	TaskCancel       TaskAction = "Cancel"
	TaskStatus       TaskAction = "StatusUpdate"
	TaskDeleteStatus TaskAction = "DeleteStatusOverride"
)

// Task is one thing that a peer's client did.
type Task struct {
	App, ID    string
	LastDirty  int64  // milliseconds since 1970; 0: not given
	Overridden string // a status; "": not given
	Status     string // "": not given
	Instance   *Instance
	Action     TaskAction
}

// ParseBatch reads {"replicationList":[…]}. A task whose instance cannot be understood has none. Errors wrap ErrSyntax.
func ParseBatch(data []byte) ([]Task, error) {
	var tasks []Task
	r := reader{items: "replicationList", item: func(n *node) error {
		if len(tasks) == MaxBatch {
			return fmt.Errorf("more than %d tasks", MaxBatch)
		}
		t := Task{
			App: n.str("appName"), ID: n.str("id"),
			Overridden: n.str("overriddenStatus"), Status: n.str("status"),
			Action: TaskAction(n.str("action")),
		}
		if s := n.str("lastDirtyTimestamp"); s != "" {
			var err error
			if t.LastDirty, err = strconv.ParseInt(s, 10, 64); err != nil {
				return fmt.Errorf("lastDirtyTimestamp %.32q is no number", s)
			}
		}
		if in := n.get("instanceInfo"); in != nil && in.kind == object {
			t.Instance, _ = in.instance(false)
		}
		tasks = append(tasks, t)
		return nil
	}}
	if _, err := r.read(bytes.NewReader(data)); err != nil {
		return nil, err
	}
	return tasks, nil
}

// AppendBatch writes what ParseBatch reads.
func AppendBatch(b []byte, tasks []Task) []byte {
	b = append(b, `{"replicationList":[`...)
	for at, t := range tasks {
		if at > 0 {
			b = append(b, ',')
		}
		o := objectWriter{b: append(b, '{')}
		o.text("appName", t.App)
		o.text("id", t.ID)
		if t.LastDirty != 0 {
			o.number("lastDirtyTimestamp", t.LastDirty)
		}
		o.optional("overriddenStatus", t.Overridden)
		o.optional("status", t.Status)
		if t.Instance != nil {
			o.key("instanceInfo")
			o.b = appendFull(o.b, t.Instance)
		}
		o.text("action", string(t.Action))
		b = append(o.b, '}')
	}
	return append(b, `]}`...)
}

// Result is the answer to one task.
type Result struct {
	Code     int       // as in HTTP
	Instance *Instance // with 409: what the answering server has, which is newer
}

// ParseResults reads {"responseList":[…]}. Errors wrap ErrSyntax.
func ParseResults(data []byte) ([]Result, error) {
	var results []Result
	r := reader{items: "responseList", item: func(n *node) error {
		if len(results) == MaxBatch {
			return fmt.Errorf("more than %d results", MaxBatch)
		}
		code, err := strconv.Atoi(n.str("statusCode"))
		if err != nil {
			return fmt.Errorf("statusCode %.32q is no number", n.str("statusCode"))
		}
		res := Result{Code: code}
		if in := n.get("responseEntity"); in != nil && in.kind == object {
			res.Instance, _ = in.instance(false)
		}
		results = append(results, res)
		return nil
	}}
	if _, err := r.read(bytes.NewReader(data)); err != nil {
		return nil, err
	}
	return results, nil
}

// AppendResults writes what ParseResults reads: one result for each task, in their order.
func AppendResults(b []byte, results []Result) []byte {
	b = append(b, `{"responseList":[`...)
	for at, r := range results {
		if at > 0 {
			b = append(b, ',')
		}
		o := objectWriter{b: append(b, '{')}
		o.number("statusCode", int64(r.Code))
		if r.Instance != nil {
			o.key("responseEntity")
			o.b = appendFull(o.b, r.Instance)
		}
		b = append(o.b, '}')
	}
	return append(b, `]}`...)
}
