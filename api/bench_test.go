package api_test

import (
	"testing"

	"bakefarm/api"
	"bakefarm/api/apitest"
	"bakefarm/recipe"
)

// BenchmarkPostWarm is what the API adds to a bake whose context the farm has: two files of the context, one chunk each.
func BenchmarkPostWarm(b *testing.B) {
	s := serve(b)
	s.coordinate()
	context := scan(b, map[string][]byte{"app": apitest.Noise(1, 1000), "etc/a": []byte("a")})
	request := api.BakeRequest{File: "r.yaml", Recipe: recipeText}
	if _, err := s.client.Post(b.Context(), request, context, nil); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.client.Post(b.Context(), request, context, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUpload is 64 MB of new chunks in one request.
func BenchmarkUpload(b *testing.B) {
	s := serve(b)
	const chunks = 16
	b.SetBytes(chunks * recipe.ChunkSize)
	for n := uint64(0); b.Loop(); n++ {
		b.StopTimer()
		var body []byte
		for i := range uint64(chunks) {
			body = append(body, frame(apitest.Noise(n*chunks+i, recipe.ChunkSize))...)
		}
		b.StartTimer()
		if a := s.send("POST", chunksPath, body, "Content-Type", api.ChunksType); a.status != 204 {
			b.Fatalf("%d %s", a.status, a.raw)
		}
	}
}
