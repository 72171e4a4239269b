module example.com/yours

go 1.22

require (
	google.golang.org/genproto/googleapis/rpc v0.0.0-20240903143218-8af14fe29dc1
	google.golang.org/grpc v1.68.0
	google.golang.org/protobuf v1.35.2
)
