package s3embed

import (
	"encoding/xml"
	"errors"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rclone/gofakes3"
)

const (
	maxPartNumber = 10_000
	maxPage       = 1000 // parts or uploads in a listing
)

// multipart answers everything about multipart uploads.
// https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html
func (s *Server) multipart(w http.ResponseWriter, r *http.Request, bucket, key string, query url.Values, body *payload) error {
	if _, err := s.store.bucket(bucket); err != nil {
		return err
	}
	id := query.Get("uploadId")
	switch {
	case r.Method == http.MethodPost && id == "" && key != "":
		return s.initiate(w, r, bucket, key)
	case r.Method == http.MethodGet && id == "" && key == "":
		return s.listUploads(w, bucket, query)
	case id == "":
	case r.Method == http.MethodPut:
		return s.putPart(w, r, bucket, key, query, body)
	case r.Method == http.MethodPost:
		return s.complete(w, r, bucket, key, id, body)
	case r.Method == http.MethodGet:
		return s.listParts(w, bucket, key, query)
	case r.Method == http.MethodDelete:
		if _, err := s.store.upload(bucket, key, id); err != nil {
			return err
		}
		if err := s.store.removeUpload(id); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return apiErrorf(http.StatusMethodNotAllowed, "MethodNotAllowed", "%s is not a method of multipart uploads", r.Method)
}

func (s *Server) initiate(w http.ResponseWriter, r *http.Request, bucket, key string) error {
	headers, err := objectHeaders(r.Header)
	if err != nil {
		return err
	}
	u, err := s.store.beginUpload(bucket, key, headers)
	if err != nil {
		return err
	}
	writeXML(w, http.StatusOK, struct {
		XMLName  xml.Name `xml:"InitiateMultipartUploadResult"`
		Bucket   string
		Key      string
		UploadID string `xml:"UploadId"`
	}{Bucket: bucket, Key: key, UploadID: u.ID})
	return nil
}

func (s *Server) putPart(w http.ResponseWriter, r *http.Request, bucket, key string, query url.Values, body *payload) error {
	n, err := strconv.Atoi(query.Get("partNumber"))
	if err != nil || n < 1 || n > maxPartNumber {
		return apiErrorf(http.StatusBadRequest, "InvalidArgument", "partNumber %q: want 1 to %d", query.Get("partNumber"), maxPartNumber)
	}
	u, err := s.store.upload(bucket, key, query.Get("uploadId"))
	if err != nil {
		return err
	}
	source := r.Header.Get("X-Amz-Copy-Source")
	var d *draft
	if source == "" {
		d, err = s.receive(r, body)
	} else {
		d, err = s.copyPart(r, source)
	}
	if err != nil {
		return err
	}
	info, err := s.store.putPart(u, n, d)
	if err != nil {
		return err
	}
	if source != "" {
		writeXML(w, http.StatusOK, struct {
			XMLName      xml.Name `xml:"CopyPartResult"`
			LastModified string
			ETag         string
		}{LastModified: isoTime(info.Modified), ETag: `"` + info.ETag + `"`})
		return nil
	}
	if body.checksumName != "" {
		w.Header().Set(body.checksumName, body.checksumValue)
	}
	w.Header().Set("ETag", `"`+info.ETag+`"`)
	w.WriteHeader(http.StatusOK)
	return nil
}

var copyRange = regexp.MustCompile(`^bytes=([0-9]{1,18})-([0-9]{1,18})$`)

// copyPart makes a draft of all or a range of an object.
func (s *Server) copyPart(r *http.Request, source string) (*draft, error) {
	path, err := url.PathUnescape(source)
	bucket, key, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if err != nil || !ok || key == "" {
		return nil, apiErrorf(http.StatusBadRequest, "InvalidArgument", "x-amz-copy-source %q: want bucket/key", source)
	}
	for _, name := range []string{"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"} {
		if name = "X-Amz-Copy-Source-" + name; r.Header.Get(name) != "" && name != "X-Amz-Copy-Source-If-Match" {
			return nil, apiErrorf(http.StatusNotImplemented, "NotImplemented", "%s is not supported for parts", strings.ToLower(name))
		}
	}
	f, info, err := s.store.get(bucket, key)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if want := r.Header.Get("X-Amz-Copy-Source-If-Match"); want != "" && !matchesETag(want, info.ETag) {
		return nil, apiErrorf(http.StatusPreconditionFailed, "PreconditionFailed", "x-amz-copy-source-if-match: the source has ETag %q", info.ETag)
	}
	off, n := int64(0), info.Size
	if h := r.Header.Get("X-Amz-Copy-Source-Range"); h != "" {
		m := copyRange.FindStringSubmatch(h)
		if m == nil {
			return nil, apiErrorf(http.StatusBadRequest, "InvalidArgument", "x-amz-copy-source-range %q: want bytes=FIRST-LAST", h)
		}
		first, _ := strconv.ParseInt(m[1], 10, 64)
		last, _ := strconv.ParseInt(m[2], 10, 64)
		if first > last || last >= info.Size {
			return nil, apiErrorf(http.StatusRequestedRangeNotSatisfiable, "InvalidRange", "x-amz-copy-source-range %q: the object has %d bytes", h, info.Size)
		}
		off, n = first, last-first+1
	}
	d, err := s.store.newDraft(n)
	if err != nil {
		return nil, err
	}
	if err := d.append(r.Context(), f, off, n); err != nil {
		d.discard()
		return nil, err
	}
	return d, nil
}

// complete joins the parts. Completing again what is already the object succeeds,
// also after a restart: the object knows the upload it came from.
func (s *Server) complete(w http.ResponseWriter, r *http.Request, bucketName, key, id string, body *payload) error {
	b, err := s.store.bucket(bucketName)
	if err != nil {
		return err
	}
	xmlBody, err := readSmall(body)
	if err != nil {
		return err
	}
	var in gofakes3.CompleteMultipartUploadRequest
	if err := xml.Unmarshal(xmlBody, &in); err != nil {
		return apiErrorf(http.StatusBadRequest, "MalformedXML", "list of parts: %v", err)
	}
	u, err := s.store.upload(bucketName, key, id)
	var info *objectInfo
	if err == nil {
		info, err = s.assemble(r, b, u, in.Parts)
	}
	if errors.Is(err, error(errNoSuchUpload)) {
		if object, herr := s.store.head(bucketName, key); herr == nil && object.Upload == id {
			info, err = object, nil
		}
	}
	if err != nil {
		return err
	}
	writeXML(w, http.StatusOK, struct {
		XMLName  xml.Name `xml:"CompleteMultipartUploadResult"`
		Location string
		Bucket   string
		Key      string
		ETag     string
	}{Location: "/" + bucketName + "/" + key, Bucket: bucketName, Key: key, ETag: `"` + info.ETag + `"`})
	return nil
}

func (s *Server) assemble(r *http.Request, b *bucket, u *upload, parts []gofakes3.CompletedPart) (*objectInfo, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ended {
		return nil, errNoSuchUpload
	}
	info := &objectInfo{Key: u.Key, Headers: u.Headers, Upload: u.ID}
	var total int64
	for i, p := range parts {
		if i > 0 && p.PartNumber <= parts[i-1].PartNumber {
			return nil, apiErrorf(http.StatusBadRequest, "InvalidPartOrder", "part %d is not in ascending order", p.PartNumber)
		}
		have, ok := u.parts[p.PartNumber]
		if !ok || strings.Trim(p.ETag, `"`) != have.ETag {
			return nil, apiErrorf(http.StatusBadRequest, "InvalidPart", "part %d with ETag %s was not uploaded", p.PartNumber, p.ETag)
		}
		info.Parts = append(info.Parts, have.Size)
		total += have.Size
	}
	if len(parts) == 0 {
		return nil, apiErrorf(http.StatusBadRequest, "MalformedXML", "the list of parts is empty")
	}
	d, err := s.store.newDraft(total)
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		if err := u.copyTo(r, d, p.PartNumber); err != nil {
			d.discard()
			return nil, err
		}
	}
	if err := s.store.put(b, d, info, writeCondition(r.Header)); err != nil {
		return nil, err
	}
	// The object stands. What is left of the upload, should this fail, expires.
	u.ended = true
	s.store.mu.Lock()
	delete(s.store.uploads, u.ID)
	s.store.mu.Unlock()
	if err := u.remove(); err != nil {
		s.log.Error("s3 multipart upload not removed", "upload", u.ID, "error", err)
	}
	return info, nil
}

func (u *upload) copyTo(r *http.Request, d *draft, n int) error {
	f, err := os.Open(u.partPath(n))
	if err != nil {
		return err
	}
	defer f.Close()
	return d.append(r.Context(), f, 0, u.parts[n].Size)
}

type partXML struct {
	PartNumber   int
	LastModified string
	ETag         string
	Size         int64
}

func (s *Server) listParts(w http.ResponseWriter, bucket, key string, query url.Values) error {
	u, err := s.store.upload(bucket, key, query.Get("uploadId"))
	if err != nil {
		return err
	}
	limit, err := pageSize(query, "max-parts")
	if err != nil {
		return err
	}
	marker, err := strconv.Atoi(query.Get("part-number-marker"))
	if err != nil && query.Get("part-number-marker") != "" {
		return apiErrorf(http.StatusBadRequest, "InvalidArgument", "part-number-marker %q: want a number", query.Get("part-number-marker"))
	}
	out := struct {
		XMLName              xml.Name `xml:"ListPartsResult"`
		Bucket               string
		Key                  string
		UploadID             string `xml:"UploadId"`
		StorageClass         string
		PartNumberMarker     int
		NextPartNumberMarker int
		MaxParts             int
		IsTruncated          bool
		Part                 []partXML
	}{Bucket: bucket, Key: key, UploadID: u.ID, StorageClass: "STANDARD", PartNumberMarker: marker, MaxParts: limit}
	u.partsMu.Lock()
	for n, p := range u.parts {
		if n > marker {
			out.Part = append(out.Part, partXML{PartNumber: n, LastModified: isoTime(p.Modified), ETag: `"` + p.ETag + `"`, Size: p.Size})
		}
	}
	u.partsMu.Unlock()
	slices.SortFunc(out.Part, func(a, b partXML) int { return a.PartNumber - b.PartNumber })
	if len(out.Part) > limit {
		out.Part, out.IsTruncated = out.Part[:limit], true
	}
	if n := len(out.Part); n > 0 {
		out.NextPartNumberMarker = out.Part[n-1].PartNumber
	}
	writeXML(w, http.StatusOK, out)
	return nil
}

type uploadXML struct {
	Key          string
	UploadID     string `xml:"UploadId"`
	StorageClass string
	Initiated    string
}

type commonPrefixXML struct{ Prefix string }

func (s *Server) listUploads(w http.ResponseWriter, bucket string, query url.Values) error {
	limit, err := pageSize(query, "max-uploads")
	if err != nil {
		return err
	}
	encode := func(s string) string { return s }
	if query.Get("encoding-type") == "url" {
		encode = gofakes3.URLEncode
	}
	prefix, delimiter := query.Get("prefix"), query.Get("delimiter")
	keyMarker, idMarker := query.Get("key-marker"), query.Get("upload-id-marker")
	out := struct {
		XMLName            xml.Name `xml:"ListMultipartUploadsResult"`
		Bucket             string
		KeyMarker          string
		UploadIDMarker     string `xml:"UploadIdMarker"`
		NextKeyMarker      string
		NextUploadIDMarker string `xml:"NextUploadIdMarker"`
		EncodingType       string `xml:",omitempty"`
		MaxUploads         int
		IsTruncated        bool
		Prefix             string
		Delimiter          string      `xml:",omitempty"`
		Upload             []uploadXML `xml:",omitempty"`
		CommonPrefixes     []commonPrefixXML
	}{
		Bucket: bucket, KeyMarker: encode(keyMarker), UploadIDMarker: idMarker, EncodingType: query.Get("encoding-type"),
		MaxUploads: limit, Prefix: encode(prefix), Delimiter: encode(delimiter),
	}
	last := ""
	for _, u := range s.store.sortedUploads(bucket) {
		common := rollUp(u.Key, prefix, delimiter)
		switch {
		case !strings.HasPrefix(u.Key, prefix), common != "" && (common == last || common <= keyMarker):
			continue
		case u.Key < keyMarker, u.Key == keyMarker && (idMarker == "" || u.ID <= idMarker):
			continue
		}
		if len(out.Upload)+len(out.CommonPrefixes) == limit {
			out.IsTruncated = true
			break
		}
		if common != "" {
			last = common
			out.CommonPrefixes = append(out.CommonPrefixes, commonPrefixXML{encode(common)})
			out.NextKeyMarker, out.NextUploadIDMarker = encode(common), ""
			continue
		}
		out.Upload = append(out.Upload, uploadXML{Key: encode(u.Key), UploadID: u.ID, StorageClass: "STANDARD", Initiated: isoTime(u.Initiated)})
		out.NextKeyMarker, out.NextUploadIDMarker = encode(u.Key), u.ID
	}
	if !out.IsTruncated {
		out.NextKeyMarker, out.NextUploadIDMarker = "", ""
	}
	writeXML(w, http.StatusOK, out)
	return nil
}

// pageSize is a max-… parameter: 1 to maxPage, which is also its default.
func pageSize(query url.Values, name string) (int, error) {
	v := query.Get(name)
	if v == "" {
		return maxPage, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 {
		return 0, apiErrorf(http.StatusBadRequest, "InvalidArgument", "%s %q: want a number", name, v)
	}
	if n == 0 {
		n = maxPage
	}
	return min(n, maxPage), nil
}

func isoTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
