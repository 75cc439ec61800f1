package api

// The types of watch events.
const (
	// WatchSet is an object that is there, whether the client knows of it or not.
	WatchSet = "SET"
	// WatchDeleted is one that is gone, or that the query does not choose any more; only what identifies it is set. The
	// client may never have been told of it.
	WatchDeleted = "DELETED"
	// WatchBookmark only tells how far the watch has come. The first one ends what was there at the beginning.
	WatchBookmark = "BOOKMARK"
	// WatchError ends the stream: Problem says why, as a rule that the client has to begin again.
	WatchError = "ERROR"
)

// WatchEvent is one line of a watch.
type WatchEvent[T any] struct {
	Type string `json:"type"`
	// Revision is what a watch that goes on from here is to be asked for with; 0: it has to begin again. Some events may
	// be told again then.
	Revision int64  `json:"revision"`
	Object   T      `json:"object,omitempty"`
	Problem  *Error `json:"problem,omitempty"`
}

// Alive is the answer to GET /v1/healthz and GET /v1/readyz when all is well.
type Alive struct {
	OK bool `json:"ok"`
}
