#include "moe/transport/grpc/describe.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "conclave/v1/expert.grpc.pb.h"
#include "moe/base/status_macros.h"
#include "moe/transport/grpc/expert_channel.h"
#include "moe/transport/grpc/expert_codec.h"

namespace conclave {
namespace {

constexpr absl::Duration kAttemptTimeout = absl::Seconds(5);
constexpr absl::Duration kPause = absl::Milliseconds(50);

absl::StatusOr<ShardDescription> DescribeOnce(v1::ExpertService::Stub& stub, const std::string& model_fingerprint,
                                              absl::Time deadline) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(std::min(deadline, absl::Now() + kAttemptTimeout)));
  v1::DescribeRequest request;
  request.set_model_fingerprint(model_fingerprint);
  v1::DescribeResponse response;
  const grpc::Status status = stub.Describe(&context, request, &response);
  if (!status.ok()) return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  return DecodeDescription(response);
}

bool MayPass(const absl::Status& status) {
  return status.code() == absl::StatusCode::kUnavailable || status.code() == absl::StatusCode::kDeadlineExceeded;
}

}  // namespace

absl::StatusOr<std::vector<ShardDescription>> DescribeShards(const std::vector<std::string>& addresses,
                                                             const std::string& model_fingerprint,
                                                             absl::Time deadline) {
  std::vector<ShardDescription> descriptions;
  for (size_t i = 0; i < addresses.size(); ++i) {
    const std::unique_ptr<v1::ExpertService::Stub> stub =
        v1::ExpertService::NewStub(NewExpertChannel(addresses[i], kExpertMessageBytesMax, nullptr));
    while (true) {
      absl::StatusOr<ShardDescription> description = DescribeOnce(*stub, model_fingerprint, deadline);
      if (description.ok()) {
        descriptions.push_back(*std::move(description));
        break;
      }
      const absl::Status& status = description.status();
      if (!MayPass(status) || absl::Now() + kPause >= deadline) {
        return absl::Status(status.code(), absl::StrCat("expert shard ", i, " at ", addresses[i],
                                                        " did not describe itself: ", std::string(status.message())));
      }
      absl::SleepFor(kPause);
    }
  }
  return descriptions;
}

}  // namespace conclave
