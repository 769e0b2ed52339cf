#include "gateway/fake_router_for_test.h"

#include <chrono>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "moe/base/check.h"

namespace conclave {

v1::DecodeResponse Ids(const std::vector<int32_t>& ids, const std::string& finish) {
  v1::DecodeResponse response;
  response.mutable_ids()->Add(ids.begin(), ids.end());
  response.set_finish_reason(finish);
  return response;
}

FakeRouter::FakeRouter(const std::string& where) : address(where) {
  script_ = [](grpc::ServerContext*, const v1::DecodeRequest&, DecodeWriter* writer) {
    writer->Write(Ids({'o', 'k', 256}, "stop"));
    return grpc::Status::OK;
  };
  status_.set_model_fingerprint("tiny");
  status_.set_numeric_profile("f32");
  // A port that was in use a moment ago may need a moment.
  for (int i = 0; i < 100 && server_ == nullptr; ++i) {
    if (i > 0) absl::SleepFor(absl::Milliseconds(20));
    grpc::ServerBuilder builder;
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.AddListeningPort(where, grpc::InsecureServerCredentials());
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  CONCLAVE_CHECK(server_ != nullptr);
}

void FakeRouter::Stop() { server_->Shutdown(std::chrono::system_clock::now()); }

void FakeRouter::Answer(Script script) {
  absl::MutexLock lock(&mutex_);
  script_ = std::move(script);
}

void FakeRouter::SetStatus(const std::function<void(v1::GetStatusResponse&)>& change) {
  absl::MutexLock lock(&mutex_);
  change(status_);
}

void FakeRouter::Hang(bool hangs) {
  absl::MutexLock lock(&mutex_);
  hangs_ = hangs;
}

std::vector<v1::DecodeRequest> FakeRouter::requests() {
  absl::MutexLock lock(&mutex_);
  return requests_;
}

grpc::Status FakeRouter::Decode(grpc::ServerContext* context, const v1::DecodeRequest* request, DecodeWriter* writer) {
  Script script_now;
  {
    absl::MutexLock lock(&mutex_);
    requests_.push_back(*request);
    script_now = script_;
  }
  return script_now(context, *request, writer);
}

grpc::Status FakeRouter::GetStatus(grpc::ServerContext* context, const v1::GetStatusRequest*,
                                   v1::GetStatusResponse* response) {
  for (;; absl::SleepFor(absl::Milliseconds(2))) {
    absl::MutexLock lock(&mutex_);
    *response = status_;
    if (!hangs_ || context->IsCancelled()) return grpc::Status::OK;
  }
}

}  // namespace conclave
