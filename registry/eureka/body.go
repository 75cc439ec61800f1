package eureka

import (
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"strings"
)

// body reads the request's, of so many bytes at most, also after it was uncompressed. A code that is not 0 says why it cannot.
func (q *request) body(most int64) ([]byte, int) {
	var in io.Reader = http.MaxBytesReader(q.ResponseWriter, q.Body, most)
	switch strings.ToLower(q.Request.Header.Get("Content-Encoding")) {
	case "", "identity":
	case "gzip", "x-gzip":
		unzip, err := gzip.NewReader(in)
		if err != nil {
			return nil, http.StatusBadRequest
		}
		in = io.LimitReader(unzip, most+1)
	default:
		return nil, http.StatusUnsupportedMediaType
	}
	data, err := io.ReadAll(in)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge), int64(len(data)) > most:
		return nil, http.StatusRequestEntityTooLarge
	case err != nil:
		return nil, http.StatusBadRequest
	}
	return data, 0
}
