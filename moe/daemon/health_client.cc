#include "moe/daemon/health_client.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/wire_format_lite.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/byte_buffer.h"
#include "moe/base/log.h"

namespace conclave {
namespace {

using google::protobuf::internal::WireFormatLite;

constexpr absl::Duration kCheckTimeout = absl::Seconds(2);
constexpr absl::Duration kPollInterval = absl::Milliseconds(20);
constexpr absl::Duration kLogInterval = absl::Seconds(5);

// Debian ships no stubs of grpc.health.v1. Its two messages have one field each, so that we write and read them here:
// HealthCheckRequest { string service = 1; }, HealthCheckResponse { ServingStatus status = 1; }.
grpc::ByteBuffer EncodeRequest(absl::string_view service) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream out(&stream);
    if (!service.empty()) WireFormatLite::WriteString(1, std::string(service), &out);
  }
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

constexpr uint32_t kServing = 1;  // HealthCheckResponse.ServingStatus.SERVING

uint32_t DecodeStatus(const grpc::ByteBuffer& response) {
  grpc::Slice slice;
  uint32_t status = 0;
  if (!response.DumpToSingleSlice(&slice).ok()) return status;
  google::protobuf::io::CodedInputStream in(slice.begin(), static_cast<int>(slice.size()));
  while (const uint32_t tag = in.ReadTag()) {
    if (tag == WireFormatLite::MakeTag(1, WireFormatLite::WIRETYPE_VARINT)) {
      if (!in.ReadVarint32(&status)) return 0;
    } else if (!WireFormatLite::SkipField(&in, tag)) {
      return 0;
    }
  }
  return status;
}

// A channel that tries again soon: processes of a cluster start within moments of each other.
std::shared_ptr<grpc::Channel> EagerChannel(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 20);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5'000);  // the time that an attempt may take
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

}  // namespace

absl::Status CheckServing(const std::shared_ptr<grpc::Channel>& channel, absl::string_view service,
                          absl::Duration timeout) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  const grpc::ByteBuffer request = EncodeRequest(service);
  grpc::ByteBuffer response;
  grpc::Status status;
  absl::Notification done;
  stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", grpc::StubOptions(), &request, &response,
                 [&](grpc::Status result) {
                   status = std::move(result);
                   done.Notify();
                 });
  done.WaitForNotification();
  switch (status.error_code()) {
    case grpc::StatusCode::OK:
      return DecodeStatus(response) == kServing ? absl::OkStatus() : absl::UnavailableError("not ready yet");
    case grpc::StatusCode::NOT_FOUND:
      return absl::UnavailableError(absl::StrCat("does not offer ", std::string(service)));
    case grpc::StatusCode::UNIMPLEMENTED:
      return absl::UnavailableError("has no gRPC health service");
    default:
      return absl::UnavailableError(absl::StrCat("does not answer (", status.error_message(), ")"));
  }
}

absl::Status WaitUntilServing(const std::vector<std::string>& addresses, absl::string_view service,
                              absl::Time deadline) {
  std::vector<std::pair<std::string, std::shared_ptr<grpc::Channel>>> missing;
  for (const std::string& address : addresses) missing.emplace_back(address, EagerChannel(address));
  absl::Time next_log = absl::Now() + kLogInterval;
  while (!missing.empty()) {
    const absl::Duration left = deadline - absl::Now();
    const absl::Status status =
        CheckServing(missing.back().second, service, std::max(std::min(kCheckTimeout, left), absl::Milliseconds(1)));
    if (status.ok()) {
      missing.pop_back();
      continue;
    }
    const std::string what =
        absl::StrCat(std::string(service), " at ", missing.back().first, " ", std::string(status.message()));
    if (left <= absl::ZeroDuration()) return absl::DeadlineExceededError(what);
    if (absl::Now() >= next_log) {
      LogInfo(absl::StrCat("waiting for ", missing.size(), " of ", addresses.size(), ": ", what));
      next_log = absl::Now() + kLogInterval;
    }
    absl::SleepFor(kPollInterval);
  }
  return absl::OkStatus();
}

}  // namespace conclave
