#include "moe/transport/grpc/grpc_shard_control.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "conclave/v1/expert.grpc.pb.h"
#include "moe/transport/grpc/expert_channel.h"
#include "moe/transport/grpc/expert_codec.h"

namespace conclave {
namespace {

// Answers come on gRPC's threads and wait here for the engine's.
class GrpcShardControl final : public ShardControl {
 public:
  GrpcShardControl(const std::vector<std::string>& addresses, const std::string& model_fingerprint,
                   const std::shared_ptr<grpc::ChannelCredentials>& credentials)
      : addresses_(addresses), model_fingerprint_(model_fingerprint) {
    for (const std::string& address : addresses) {
      stubs_.push_back(v1::ExpertService::NewStub(NewExpertChannel(address, kExpertMessageBytesMax, credentials)));
    }
  }

  ~GrpcShardControl() override {
    std::unique_lock<std::mutex> lock(mutex_);
    for (const auto& question : open_) question->context.TryCancel();
    answered_.wait(lock, [&] { return open_.empty(); });
  }

  void Describe(ShardId shard, absl::Duration timeout) override {
    Question* question = NewQuestion(shard, /*of_load=*/false, timeout);
    question->describe.set_model_fingerprint(model_fingerprint_);
    stubs_[Value(shard)]->async()->Describe(&question->context, &question->describe, &question->response,
                                            [this, question](grpc::Status status) { Answer(question, status); });
  }

  void LoadExperts(ShardId shard, const std::vector<LayerHolding>& experts, absl::Duration timeout) override {
    Question* question = NewQuestion(shard, /*of_load=*/true, timeout);
    question->load.set_model_fingerprint(model_fingerprint_);
    EncodeHoldings(experts, question->load.mutable_experts());
    stubs_[Value(shard)]->async()->LoadExperts(&question->context, &question->load, &question->response,
                                               [this, question](grpc::Status status) { Answer(question, status); });
  }

  std::optional<ShardNews> Next() override {
    std::lock_guard<std::mutex> lock(mutex_);
    if (news_.empty()) return std::nullopt;
    ShardNews news = std::move(news_.front());
    news_.pop_front();
    return news;
  }

 private:
  struct Question {
    ShardId shard{0};
    bool of_load = false;
    grpc::ClientContext context;
    v1::DescribeRequest describe;
    v1::LoadExpertsRequest load;
    v1::DescribeResponse response;
  };

  Question* NewQuestion(ShardId shard, bool of_load, absl::Duration timeout) {
    auto question = std::make_unique<Question>();
    question->shard = shard;
    question->of_load = of_load;
    question->context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    std::lock_guard<std::mutex> lock(mutex_);
    open_.push_back(std::move(question));
    return open_.back().get();
  }

  void Answer(Question* question, const grpc::Status& status) {
    ShardNews news{question->shard, question->of_load, absl::UnknownError("")};
    if (status.ok()) {
      news.description = DecodeDescription(question->response);
    } else {
      const std::string what = status.error_code() == grpc::StatusCode::UNIMPLEMENTED
                                   ? "no expert shard, but something else answers there"
                                   : status.error_message();
      news.description =
          absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                       absl::StrCat("at ", addresses_[Value(question->shard)], ": ", what));
    }
    std::lock_guard<std::mutex> lock(mutex_);
    news_.push_back(std::move(news));
    open_.erase(std::find_if(open_.begin(), open_.end(), [&](const auto& each) { return each.get() == question; }));
    answered_.notify_all();
  }

  const std::vector<std::string> addresses_;
  const std::string model_fingerprint_;
  std::vector<std::unique_ptr<v1::ExpertService::Stub>> stubs_;
  std::mutex mutex_;
  std::condition_variable answered_;
  std::vector<std::unique_ptr<Question>> open_;  // guarded by mutex_
  std::deque<ShardNews> news_;                   // guarded by mutex_
};

}  // namespace

std::unique_ptr<ShardControl> NewGrpcShardControl(const std::vector<std::string>& addresses,
                                                  const std::string& model_fingerprint,
                                                  std::shared_ptr<grpc::ChannelCredentials> credentials) {
  return std::make_unique<GrpcShardControl>(addresses, model_fingerprint, credentials);
}

}  // namespace conclave
