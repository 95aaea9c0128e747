package s3embed

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// This file is AWS Signature Version 4 as S3 speaks it:
//
//	https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
//	https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
//	https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html           (payload.go)
//	https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html  (payload.go)
const (
	algorithm    = "AWS4-HMAC-SHA256"
	amzTime      = "20060102T150405Z"
	maxSkew      = 15 * time.Minute
	maxPresigned = 7 * 24 * time.Hour
	emptySHA256  = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

// Values of x-amz-content-sha256 that are not a digest.
const (
	unsignedPayload        = "UNSIGNED-PAYLOAD"
	unsignedPayloadTrailer = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
	signedChunks           = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	signedChunksTrailer    = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
)

// keys is the one identity that may use the server.
type keys struct {
	access, secret, region string
}

// signature is a verified request signature, with what its body needs to be
// verified in turn.
type signature struct {
	payload string // x-amz-content-sha256 or what stands for it
	key     []byte // signing key of the day
	time    string // as signed, amzTime
	scope   string // date/region/s3/aws4_request
	seed    string // the request's signature, hex: the first link of the chunks' chain
}

// authorization is a signature as claimed, from the header or the query.
type authorization struct {
	access  string
	date    string // of the scope, YYYYMMDD
	region  string
	scope   string
	headers []string // signed headers, lower case
	sig     string
}

// verify checks who signed r. Every failure is an *apiError: 403 for a wrong or
// missing signature, an unknown key, a clock off by more than 15 minutes; 400 for
// what cannot be understood.
func (k keys) verify(r *http.Request, now time.Time) (*signature, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, apiErrorf(http.StatusBadRequest, "InvalidURI", "query: %v", err)
	}
	presigned := r.Header.Get("Authorization") == "" && query.Has("X-Amz-Signature")
	var auth *authorization
	switch {
	case presigned:
		auth, err = authFromQuery(query)
	case r.Header.Get("Authorization") != "":
		auth, err = authFromHeader(r.Header.Get("Authorization"))
	default:
		err = apiErrorf(http.StatusForbidden, "AccessDenied", "anonymous requests are not allowed: sign the request")
	}
	if err != nil {
		return nil, err
	}

	stamp := query.Get("X-Amz-Date")
	if !presigned {
		stamp = r.Header.Get("X-Amz-Date")
	}
	signed, err := time.Parse(amzTime, stamp)
	if err != nil {
		return nil, apiErrorf(http.StatusForbidden, "AccessDenied", "x-amz-date %q: want the form %s", stamp, amzTime)
	}
	if auth.date != stamp[:8] {
		return nil, malformed("credential is for %s, the request is of %s", auth.date, stamp[:8])
	}
	if subtle.ConstantTimeCompare([]byte(auth.access), []byte(k.access)) != 1 {
		return nil, apiErrorf(http.StatusForbidden, "InvalidAccessKeyId", "the access key does not exist here")
	}
	if auth.region != k.region {
		e := malformed("the region %q is wrong; expecting %q", auth.region, k.region)
		e.region = k.region
		return nil, e
	}
	if presigned {
		err = checkExpiry(query, signed, now)
	} else if skew := now.Sub(signed); skew > maxSkew || skew < -maxSkew {
		err = apiErrorf(http.StatusForbidden, "RequestTimeTooSkewed",
			"request is of %s, the server's clock says %s: more than %v apart", stamp, now.UTC().Format(amzTime), maxSkew)
	}
	if err != nil {
		return nil, err
	}

	s := &signature{key: k.signingKey(auth.date), time: stamp, scope: auth.scope, payload: payloadHash(r, presigned)}
	canonical, err := canonicalRequest(r, query, auth.headers, s.payload)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256([]byte(canonical))
	s.seed = s.sign(algorithm, s.time, s.scope, hex.EncodeToString(digest[:]))
	if !equalHex(s.seed, auth.sig) {
		return nil, signatureMismatch("request")
	}
	return s, nil
}

// signatureMismatch says which signature was wrong: the request's, a chunk's or the trailer's.
func signatureMismatch(of string) *apiError {
	return apiErrorf(http.StatusForbidden, "SignatureDoesNotMatch",
		"the %s signature does not match the one calculated here: check the secret key and how the request is signed", of)
}

func malformed(format string, args ...any) *apiError {
	return apiErrorf(http.StatusBadRequest, "AuthorizationHeaderMalformed", "authorization: "+format, args...)
}

// authFromHeader parses "AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…".
func authFromHeader(h string) (*authorization, error) {
	rest, ok := strings.CutPrefix(h, algorithm+" ")
	if !ok {
		return nil, apiErrorf(http.StatusBadRequest, "InvalidRequest", "authorization: only %s is supported", algorithm)
	}
	fields := map[string]string{}
	for part := range strings.SplitSeq(rest, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if _, twice := fields[name]; !ok || twice {
			return nil, malformed("field %q: want each of Credential, SignedHeaders, Signature once", name)
		}
		fields[name] = value
	}
	return newAuthorization(fields["Credential"], fields["SignedHeaders"], fields["Signature"])
}

func authFromQuery(q url.Values) (*authorization, error) {
	if a := q.Get("X-Amz-Algorithm"); a != algorithm {
		return nil, apiErrorf(http.StatusBadRequest, "AuthorizationQueryParametersError", "X-Amz-Algorithm %q: only %s is supported", a, algorithm)
	}
	return newAuthorization(q.Get("X-Amz-Credential"), q.Get("X-Amz-SignedHeaders"), q.Get("X-Amz-Signature"))
}

func newAuthorization(credential, headers, sig string) (*authorization, error) {
	// The access key may itself contain slashes; the scope has exactly four parts.
	parts := strings.Split(credential, "/")
	if len(parts) < 5 {
		return nil, malformed("Credential: want ACCESSKEY/DATE/REGION/s3/aws4_request")
	}
	scope := parts[len(parts)-4:]
	if scope[2] != "s3" || scope[3] != "aws4_request" {
		return nil, malformed("Credential: want a scope that ends in s3/aws4_request")
	}
	a := &authorization{
		access: strings.Join(parts[:len(parts)-4], "/"), date: scope[0], region: scope[1], scope: strings.Join(scope, "/"),
		headers: strings.Split(headers, ";"), sig: sig,
	}
	if len(sig) != 2*sha256.Size {
		return nil, malformed("Signature: want %d hex digits", 2*sha256.Size)
	}
	if !slices.Contains(a.headers, "host") {
		return nil, malformed("SignedHeaders: host must be signed")
	}
	return a, nil
}

func checkExpiry(q url.Values, signed, now time.Time) error {
	seconds, err := strconv.ParseInt(q.Get("X-Amz-Expires"), 10, 64)
	if err != nil || seconds < 1 || seconds > int64(maxPresigned/time.Second) {
		return apiErrorf(http.StatusBadRequest, "AuthorizationQueryParametersError",
			"X-Amz-Expires %q: want seconds, from 1 to %d", q.Get("X-Amz-Expires"), int64(maxPresigned/time.Second))
	}
	if signed.Sub(now) > maxSkew {
		return apiErrorf(http.StatusForbidden, "AccessDenied", "request is not valid yet")
	}
	if now.After(signed.Add(time.Duration(seconds) * time.Second)) {
		return apiErrorf(http.StatusForbidden, "AccessDenied", "request has expired")
	}
	return nil
}

// payloadHash is the last line of the canonical request.
func payloadHash(r *http.Request, presigned bool) string {
	if h := r.Header.Get("X-Amz-Content-Sha256"); h != "" {
		return h
	}
	if presigned {
		return unsignedPayload
	}
	return emptySHA256
}

func canonicalRequest(r *http.Request, query url.Values, headers []string, payload string) (string, error) {
	// An x-amz- header that is not signed could turn the request into another one,
	// a presigned PUT into a copy for instance.
	for name := range r.Header {
		if l := strings.ToLower(name); strings.HasPrefix(l, "x-amz-") && !slices.Contains(headers, l) {
			return "", apiErrorf(http.StatusForbidden, "AccessDenied", "header %s is present but not signed", l)
		}
	}
	var b strings.Builder
	b.WriteString(r.Method)
	b.WriteByte('\n')
	b.WriteString(uriEncode(r.URL.Path, true))
	b.WriteByte('\n')
	b.WriteString(canonicalQuery(query))
	b.WriteByte('\n')
	for _, name := range headers {
		b.WriteString(name)
		b.WriteByte(':')
		values, err := headerValues(r, name)
		if err != nil {
			return "", err
		}
		for i, v := range values {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(strings.Join(strings.Fields(v), " "))
		}
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	b.WriteString(strings.Join(headers, ";"))
	b.WriteByte('\n')
	b.WriteString(payload)
	return b.String(), nil
}

// headerValues gives back the headers that net/http moves elsewhere.
func headerValues(r *http.Request, name string) ([]string, error) {
	if v, ok := r.Header[http.CanonicalHeaderKey(name)]; ok {
		return v, nil
	}
	switch name {
	case "host":
		return []string{r.Host}, nil
	case "content-length":
		return []string{strconv.FormatInt(r.ContentLength, 10)}, nil
	case "transfer-encoding":
		return r.TransferEncoding, nil
	case "expect":
		return []string{"100-continue"}, nil
	}
	return nil, malformed("SignedHeaders: %q is not in the request", name)
}

func canonicalQuery(query url.Values) string {
	var pairs []string
	for name, values := range query {
		if name == "X-Amz-Signature" {
			continue
		}
		for _, v := range values {
			pairs = append(pairs, uriEncode(name, false)+"="+uriEncode(v, false))
		}
	}
	sort.Strings(pairs)
	return strings.Join(pairs, "&")
}

// uriEncode is AWS's UriEncode: every byte except the unreserved characters of
// RFC 3986, and "/" in a path.
func uriEncode(s string, path bool) string {
	var b strings.Builder
	b.Grow(len(s) + 16)
	for i := 0; i < len(s); i++ {
		c := s[i]
		if isNameByte(c) || c == '.' || c == '~' || path && c == '/' {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(upperHex[c>>4])
			b.WriteByte(upperHex[c&15])
		}
	}
	return b.String()
}

func (k keys) signingKey(date string) []byte {
	key := []byte("AWS4" + k.secret)
	for _, part := range []string{date, k.region, "s3", "aws4_request"} {
		key = hmacSHA256(key, part)
	}
	return key
}

// sign signs the lines of a string-to-sign with the signing key of the day.
func (s *signature) sign(lines ...string) string {
	return hex.EncodeToString(hmacSHA256(s.key, strings.Join(lines, "\n")))
}

func hmacSHA256(key []byte, data string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(data))
	return h.Sum(nil)
}

func equalHex(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
