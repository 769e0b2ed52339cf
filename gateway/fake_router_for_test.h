// An attention service that answers as a test says. For tests only.
#ifndef CONCLAVE_GATEWAY_FAKE_ROUTER_FOR_TEST_H_
#define CONCLAVE_GATEWAY_FAKE_ROUTER_FOR_TEST_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "conclave/v1/control.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "moe/base/test_port.h"

namespace conclave {

using DecodeWriter = grpc::ServerWriter<v1::DecodeResponse>;

// A message of an attention service's stream.
v1::DecodeResponse Ids(const std::vector<int32_t>& ids, const std::string& finish = "");

// Thread-safe. Until told otherwise it answers "ok" and byte 256, which is the tiny tokenizer's end.
class FakeRouter final : public v1::RouterService::Service {
 public:
  using Script = std::function<grpc::Status(grpc::ServerContext*, const v1::DecodeRequest&, DecodeWriter*)>;

  // Listens on a port of its own, which nobody else is given once it has stopped, or on `address` again.
  explicit FakeRouter(const std::string& address = NewTestAddress());
  ~FakeRouter() override { Stop(); }
  // As a process that dies: connections break. Scripts that go on are waited for.
  void Stop();
  void Answer(Script script);
  // What it says of itself; at first it is "tiny", "f32" and idle.
  void SetStatus(const std::function<void(v1::GetStatusResponse&)>& change);
  // From now on questions about its status get no answer, as if the process were stopped.
  void Hang(bool hangs);
  // What has arrived, in order of arrival.
  std::vector<v1::DecodeRequest> requests();

  grpc::Status Decode(grpc::ServerContext* context, const v1::DecodeRequest* request, DecodeWriter* writer) override;
  grpc::Status GetStatus(grpc::ServerContext* context, const v1::GetStatusRequest* request,
                         v1::GetStatusResponse* response) override;

  const std::string address;

 private:
  absl::Mutex mutex_;
  Script script_ ABSL_GUARDED_BY(mutex_);
  v1::GetStatusResponse status_ ABSL_GUARDED_BY(mutex_);
  bool hangs_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<v1::DecodeRequest> requests_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_FAKE_ROUTER_FOR_TEST_H_
