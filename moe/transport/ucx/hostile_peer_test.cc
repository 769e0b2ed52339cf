// Messages that no honest router sends, to a UCX server that runs: each is refused, counted and logged with the peer's
// name, the next good call succeeds, and who goes on is in quarantine.
#include <ucp/api/ucp.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/types/span.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/clock.h"
#include "moe/base/ids.h"
#include "moe/metrics/metrics.h"
#include "moe/tensor/mat_view.h"
#include "moe/transport/data_plane.h"
#include "moe/transport/data_plane/body_buffer.h"
#include "moe/transport/data_plane/wire.h"
#include "moe/transport/fake_expert_handler.h"
#include "moe/transport/peer_gate.h"
#include "moe/transport/transport.h"
#include "moe/transport/ucx/ucx_expert_server.h"
#include "moe/transport/ucx/ucx_link.h"
#include "moe/transport/ucx/ucx_worker.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

constexpr int kHidden = 4, kExperts = 8;

DataPlaneRequest RequestOf(const std::string& name) {
  DataPlaneRequest request;
  request.peer = name;
  request.version_min = kWireVersionMin;
  request.version_max = kWireVersion;
  return request;
}

// A router that puts any bytes on the wire.
class RawRouter {
 public:
  RawRouter(UcxExpertServer& server, const std::string& name) {
    auto worker = UcxWorker::Create(UcxWorkerOptions{});
    EXPECT_TRUE(worker.ok()) << worker.status();
    worker_ = *std::move(worker);
    ucp_am_handler_param_t handler = {};
    handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                         UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
    handler.id = kWireActiveMessage;
    handler.flags = UCP_AM_FLAG_WHOLE_MSG;
    handler.cb = &RawRouter::OnReply;
    handler.arg = this;
    ucp_worker_set_am_recv_handler(worker_->handle(), &handler);
    link_ = std::make_unique<UcxLink>(*worker_);
    const auto offer = server.Connect(RequestOf(name));
    EXPECT_TRUE(offer.ok()) << offer.status();
    if (offer.ok()) offer_ = *offer;
    EXPECT_TRUE(link_->Connect(server.address()).ok());
  }
  ~RawRouter() {
    link_->Close();
    worker_->FinishClosing(absl::Seconds(5));
    for (int i = 0; i < 1000 && !link_->idle(); ++i) worker_->Progress();
  }

  const DataPlaneOffer& offer() const { return offer_; }

  void Put(const WireHeader& header, const void* payload, size_t bytes, size_t header_bytes = sizeof(WireHeader),
           uint32_t flags = UCP_AM_SEND_FLAG_EAGER) {
    ucp_request_param_t parameters = {};
    parameters.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    parameters.flags = flags | UCP_AM_SEND_FLAG_REPLY;
    const ucs_status_ptr_t request = ucp_am_send_nbx(link_->endpoint(), kWireActiveMessage, &header, header_bytes,
                                                     payload, bytes, &parameters);
    if (!UCS_PTR_IS_PTR(request)) return;
    // A rendezvous that nobody fetches ends when the connection does.
    Until([&] { return ucp_request_check_status(request) != UCS_INPROGRESS; });
    ucp_request_free(request);
  }

  // Shows the token, or another.
  void Greet(const std::string& token) {
    WireHeader hello;
    hello.connection = offer_.connection;
    hello.body_bytes = token.size();
    std::memcpy(&key_, offer_.token.data(), sizeof(key_));
    Put(hello, token.data(), token.size());
  }
  // Whether the shard let it in.
  bool Greet() {
    Greet(offer_.token);
    return Until([&] { return replies_ > 0; }) && last_.kind == WireKind::kWelcome && last_.status == 0;
  }

  // A good call of one row for expert 3, and the body that belongs to it.
  WireHeader NewCall(float value = 2, int32_t expert = 3) {
    const float row[kHidden] = {value, value, value, value};
    const uint32_t offsets[2] = {0, 1};
    ExpertCall call;
    call.call_id = ++sequence_;
    call.placement_epoch = 1;
    call.rows = ViewF32(row, 1, kHidden);
    call.row_offsets = offsets;
    call.experts = absl::MakeConstSpan(&expert, 1);
    WireHeader header;
    DescribeCall(call, absl::Now(), &header);
    header.connection = offer_.connection;
    header.key = key_;
    header.sequence = sequence_;
    body_.Reserve(static_cast<int64_t>(header.body_bytes));
    WriteCallMeta(call, body_.data());
    std::memcpy(body_.data() + CallMetaBytes(1, 1), row, sizeof(row));
    return header;
  }
  const std::byte* body() const { return body_.data(); }
  // Sends it whole. The status in the reply; UNAVAILABLE: it was cut off instead.
  absl::Status Send(const WireHeader& header) { return Send(header, header.body_bytes); }
  absl::Status Send(const WireHeader& header, size_t payload_bytes, size_t header_bytes = sizeof(WireHeader),
                    uint32_t flags = UCP_AM_SEND_FLAG_EAGER) {
    const int before = replies_;
    Put(header, body_.data(), payload_bytes, header_bytes, flags);
    Until([&] { return replies_ > before || link_->broken(); });
    if (replies_ > before) return absl::Status(static_cast<absl::StatusCode>(last_.status), text_);
    return link_->broken() ? absl::UnavailableError("cut off") : absl::DeadlineExceededError("nothing came");
  }
  // Sends what comes before the rows, if it is to, and offers `rows_bytes` of them to be fetched. What Send returns.
  absl::Status Offer(WireHeader header, bool with_meta, size_t rows_bytes) {
    const size_t meta_bytes = static_cast<size_t>(CallMetaBytes(1, 1));
    header.flags |= kWireDeviceRows;
    if (with_meta) Put(header, body_.data(), meta_bytes);
    const int before = replies_;
    header.offset = meta_bytes;
    Put(header, body_.data() + meta_bytes, rows_bytes, sizeof(header), UCP_AM_SEND_FLAG_RNDV);
    Until([&] { return replies_ > before || link_->broken(); });
    if (replies_ > before) return absl::Status(static_cast<absl::StatusCode>(last_.status), text_);
    return link_->broken() ? absl::UnavailableError("cut off") : absl::DeadlineExceededError("nothing came");
  }
  bool CutOff() {
    return Until([&] { return link_->broken(); });
  }

 private:
  bool Until(const std::function<bool()>& condition) {
    absl::Time now = absl::Now();
    for (const absl::Time until = now + absl::Seconds(20); !condition() && now < until;) {
      if (!worker_->Progress()) worker_->Wait(now + absl::Milliseconds(5), /*bytes_moving=*/0, &now);
    }
    return condition();
  }

  static ucs_status_t OnReply(void* self, const void* header, size_t header_bytes, void* data, size_t bytes,
                              const ucp_am_recv_param_t*) {
    auto& router = *static_cast<RawRouter*>(self);
    EXPECT_EQ(header_bytes, sizeof(WireHeader));
    std::memcpy(&router.last_, header, sizeof(WireHeader));
    router.text_ = router.last_.status == 0 ? "" : std::string(static_cast<const char*>(data), bytes);
    ++router.replies_;
    return UCS_OK;
  }

  std::unique_ptr<UcxWorker> worker_;
  std::unique_ptr<UcxLink> link_;
  DataPlaneOffer offer_;
  uint64_t key_ = 0, sequence_ = 0;
  BodyBuffer body_;
  WireHeader last_;
  std::string text_;
  int replies_ = 0;
};

struct Case {
  std::string what, reason, says;
  absl::StatusCode code;  // UNAVAILABLE: it is cut off; else the reply's, and the connection goes on
  std::function<absl::Status(RawRouter&)> send;
};
constexpr absl::StatusCode kCut = absl::StatusCode::kUnavailable, kInvalid = absl::StatusCode::kInvalidArgument;

// A good call whose header was spoilt.
Case Spoilt(std::string what, std::string says, void (*spoil)(WireHeader&)) {
  return Case{std::move(what), "message", std::move(says), kCut, [spoil](RawRouter& router) {
                WireHeader header = router.NewCall();
                const size_t bytes = header.body_bytes;
                spoil(header);
                return router.Send(header, bytes);
              }};
}

std::vector<Case> MessagesWithoutSense() {
  return {
      Spoilt("of another protocol", "magic", [](WireHeader& h) { h.magic ^= 1; }),
      Spoilt("of a version that is none", "version", [](WireHeader& h) { h.version = 9; }),
      Spoilt("oversized", "rows", [](WireHeader& h) { h.rows = 1u << 31; }),
      Spoilt("with a body beyond its shape", "body_bytes", [](WireHeader& h) { h.body_bytes = ~uint64_t{0}; }),
      Spoilt("with more pairs than rows can have", "pairs", [](WireHeader& h) { h.pairs = ~0u; }),
      Spoilt("that begins in its middle", "offset", [](WireHeader& h) { h.offset = 64; }),
      {"of a header cut short", "message", "header bytes", kCut,
       [](RawRouter& router) { return router.Send(router.NewCall(), 16, 50); }},
      {"without its end, and the next one", "message", "comes next", kCut,
       [](RawRouter& router) {
         const WireHeader half = router.NewCall();
         router.Put(half, router.body(), half.body_bytes / 2);
         return router.Send(router.NewCall());
       }},
      {"reordered", "message", "comes next", kCut,
       [](RawRouter& router) {
         WireHeader header = router.NewCall();
         router.Put(header, router.body(), 8);
         header.offset = 16;
         return router.Send(header, 8);
       }},
      {"by rendezvous", "message", "rendezvous", kCut,
       [](RawRouter& router) {
         const WireHeader header = router.NewCall();
         return router.Send(header, header.body_bytes, sizeof(header), UCP_AM_SEND_FLAG_RNDV);
       }},
      {"replayed", "message", "it came before", kCut,
       [](RawRouter& router) {
         const WireHeader header = router.NewCall();
         EXPECT_TRUE(router.Send(header).ok());
         return router.Send(header);
       }},
  };
}

std::vector<Case> MessagesWithoutRight() {
  return {
      {"with a stale key", "token", "without the connection's key", kCut,
       [](RawRouter& router) {
         WireHeader header = router.NewCall();
         header.key ^= 1;
         return router.Send(header);
       }},
      {"of another connection", "token", "without the connection's key", kCut,
       [](RawRouter& router) {
         WireHeader header = router.NewCall();
         ++header.connection;
         return router.Send(header);
       }},
      {"that only shards send", "token", "without the connection's key", kCut,
       [](RawRouter& router) {
         WireHeader header = router.NewCall();
         header.kind = WireKind::kReply;
         header.body_bytes = kHidden * sizeof(float);
         return router.Send(header);
       }},
      {"that greets again", "token", "already", kCut,
       [](RawRouter& router) {
         WireHeader hello;
         hello.connection = router.offer().connection;
         hello.body_bytes = router.offer().token.size();
         router.NewCall();  // for a body of some bytes
         router.Put(hello, router.body(), hello.body_bytes);
         return router.CutOff() ? absl::UnavailableError("cut off") : absl::OkStatus();
       }},
      {"of rows on a device, where that was not agreed on", "message", "not agreed on", kCut,
       [](RawRouter& router) {
         WireHeader header = router.NewCall();
         header.flags = kWireDeviceRows;
         return router.Send(header);
       }},
      {"for expert -1", "call", "experts[0]", kInvalid,
       [](RawRouter& router) { return router.Send(router.NewCall(2, -1)); }},
      {"for expert 2^31-1", "call", "experts[0]", kInvalid,
       [](RawRouter& router) { return router.Send(router.NewCall(2, std::numeric_limits<int32_t>::max())); }},
      {"for layer -5", "call", "layer", kInvalid,
       [](RawRouter& router) {
         WireHeader header = router.NewCall();
         header.layer = -5;
         return router.Send(header);
       }},
      {"of rows that are not numbers", "call", "not finite", kInvalid,
       [](RawRouter& router) { return router.Send(router.NewCall(std::numeric_limits<float>::infinity())); }},
      {"with a wrong checksum", "checksum", "checksum", absl::StatusCode::kDataLoss,
       [](RawRouter& router) {
         WireHeader header = router.NewCall();
         header.flags = kWireChecksummed;
         header.checksum = 1;
         return router.Send(header);
       }},
  };
}

constexpr size_t kRowBytes = kHidden * sizeof(float);

// To a shard that takes rows on devices.
std::vector<Case> OffersWithoutSense() {
  return {
      {"of fewer rows than it says", "message", "comes next", kCut,
       [](RawRouter& router) { return router.Offer(router.NewCall(), true, kRowBytes / 2); }},
      {"of rows without what comes before them", "message", "comes next", kCut,
       [](RawRouter& router) { return router.Offer(router.NewCall(), false, kRowBytes); }},
      {"of rows that were to be fetched", "message", "comes next", kCut,
       [](RawRouter& router) {
         WireHeader header = router.NewCall();
         header.flags = kWireDeviceRows;
         return router.Send(header);
       }},
      {"of rows that are packed on a device", "message", "flags", kCut,
       [](RawRouter& router) {
         WireHeader header = router.NewCall();
         MarkPacked(&header);
         return router.Offer(header, true, kRowBytes);
       }},
      {"for expert -1", "call", "experts[0]", kInvalid,
       [](RawRouter& router) { return router.Offer(router.NewCall(2, -1), true, kRowBytes); }},
      {"with a wrong checksum", "checksum", "checksum", absl::StatusCode::kDataLoss,
       [](RawRouter& router) {
         WireHeader header = router.NewCall();
         header.flags = kWireChecksummed;
         header.checksum = 1;
         return router.Offer(header, true, kRowBytes);
       }},
  };
}

// Computes "on a device" what the fake shard computes.
class OnDevice final : public ExpertHandler {
 public:
  explicit OnDevice(ExpertHandler& handler) : handler_(handler) {}
  ShardDescription Describe() const override { return handler_.Describe(); }
  bool TakesDeviceRows() const override { return true; }
  absl::Status Run(const ExpertCall& call, MatView out) override {
    ExpertCall plain = call;
    plain.rows.device = out.device = Device::kCpu;
    return handler_.Run(plain, out);
  }

 private:
  ExpertHandler& handler_;
};

class HostilePeerTest : public testing::Test {
 protected:
  HostilePeerTest() { StartServer(UcxDeviceMemory::kNone, handler_); }
  void StartServer(UcxDeviceMemory device, ExpertHandler& handler) {
    UcxExpertServerOptions options;
    options.gate = &gate_;
    options.clock = &clock_;
    options.worker.device_memory = device;
    options.device_memory = [](int64_t bytes) {
      return std::shared_ptr<void>(std::aligned_alloc(256, static_cast<size_t>(bytes)), &std::free);
    };
    server_.reset();
    auto server = UcxExpertServer::Start(options);
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    server_->SetHandler(&handler);
  }
  // Each of them is refused, counted and logged.
  void AreRefused(const std::vector<Case>& cases);
  void AGoodCallSucceeds(const std::string& name) {
    RawRouter router(*server_, name);
    ASSERT_TRUE(router.Greet()) << name;
    EXPECT_TRUE(router.Send(router.NewCall()).ok()) << name;
  }
  // The counter may move a moment after the answer.
  void Counted(const std::string& reason, int count) {
    const std::string line =
        absl::StrCat("conclave_expert_refused_total{reason=\"", reason, "\",transport=\"ucx\"} ", count, "\n");
    for (int i = 0; i < 1000 && metrics_->Text().find(line) == std::string::npos; ++i) {
      absl::SleepFor(absl::Milliseconds(10));
    }
    EXPECT_THAT(metrics_->Text(), HasSubstr(line));
  }

  FakeClock clock_;
  std::unique_ptr<Metrics> metrics_ = Metrics::Create();
  PeerGate gate_{&clock_, metrics_.get()};
  FakeExpertHandler handler_{"fake-0", kHidden, kExperts};
  std::unique_ptr<UcxExpertServer> server_;
};

void HostilePeerTest::AreRefused(const std::vector<Case>& cases) {
  std::map<std::string, int> counts;
  for (const Case& bad : cases) {
    SCOPED_TRACE(bad.what);
    clock_.Advance(absl::Seconds(1));  // a few lines a second are logged
    const std::string name = absl::StrCat("router-", &bad - cases.data());
    testing::internal::CaptureStderr();
    RawRouter router(*server_, name);
    EXPECT_TRUE(router.Greet());
    const absl::Status refused = bad.send(router);
    EXPECT_EQ(refused.code(), bad.code) << refused;
    const bool goes_on = bad.code == kInvalid || bad.code == absl::StatusCode::kDataLoss;
    if (goes_on) {
      EXPECT_TRUE(router.Send(router.NewCall()).ok()) << "the connection goes on";
    } else {
      EXPECT_TRUE(router.CutOff());
    }
    Counted(bad.reason, ++counts[bad.reason]);
    AGoodCallSucceeds(name);
    const std::string log = testing::internal::GetCapturedStderr();
    EXPECT_THAT(log, HasSubstr(absl::StrCat("ucx: refused from ", name, " at 127.0.0.1 (", bad.reason, "): ")));
    EXPECT_THAT(log, HasSubstr(bad.says));
  }
}

TEST_F(HostilePeerTest, EachOffenceIsRefusedCountedAndLoggedAndTheNextGoodCallSucceeds) {
  std::vector<Case> cases = MessagesWithoutSense();
  for (Case& bad : MessagesWithoutRight()) cases.push_back(std::move(bad));
  AreRefused(cases);
}

TEST_F(HostilePeerTest, SoIsEachOffenceOfRowsOnADevice) {
  OnDevice handler(handler_);
  StartServer(UcxDeviceMemory::kPretend, handler);
  AreRefused(OffersWithoutSense());
  RawRouter router(*server_, "router-z");
  ASSERT_TRUE(router.Greet());
  EXPECT_TRUE(router.Offer(router.NewCall(), true, kRowBytes).ok());
}

TEST_F(HostilePeerTest, ATokenThatIsWrongUsedOrTooOldLetsNobodyIn) {
  RawRouter guesser(*server_, "router-a");
  std::string wrong = guesser.offer().token;
  wrong.back() ^= 1;
  guesser.Greet(wrong);
  EXPECT_TRUE(guesser.CutOff());
  Counted("token", 1);

  RawRouter first(*server_, "router-b"), second(*server_, "router-c");
  ASSERT_TRUE(first.Greet());
  second.Greet(first.offer().token);
  EXPECT_TRUE(second.CutOff());
  Counted("token", 2);
  EXPECT_TRUE(first.Send(first.NewCall()).ok()) << "whose token was stolen is served on";
  EXPECT_EQ(handler_.runs(), 1);
}

TEST_F(HostilePeerTest, AnotherModelProfileEpochOrVersionIsRefusedInASentenceAndNotHeldAgainstThePeer) {
  testing::internal::CaptureStderr();
  DataPlaneRequest model = RequestOf("router-a"), profile = model, epoch = model, version = model;
  model.model_fingerprint = "another-model";
  profile.numeric_profile = "another-profile";
  epoch.placement_epoch = 77;
  version.version_min = version.version_max = kWireVersion + 5;
  int count = 0;
  for (const auto& [request, says] : std::vector<std::pair<DataPlaneRequest, std::string>>{
           {model, "another-model"}, {profile, "another-profile"}, {epoch, "77"}, {version, "versions"}}) {
    const auto offer = server_->Connect(request);
    EXPECT_EQ(offer.status().code(), absl::StatusCode::kFailedPrecondition) << offer.status();
    EXPECT_THAT(std::string(offer.status().message()), HasSubstr(says));
    Counted("mismatch", ++count);
  }
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("ucx: refused from router-a (mismatch): "));
  AGoodCallSucceeds("router-a");
}

TEST_F(HostilePeerTest, RepeatedOffencesEndInQuarantine) {
  RawRouter bystander(*server_, "router-b"), router(*server_, "router-a");
  ASSERT_TRUE(bystander.Greet() && router.Greet());
  testing::internal::CaptureStderr();
  for (int i = 1; i < PeerGate::kOffencesMax; ++i) {
    EXPECT_EQ(router.Send(router.NewCall(2, -1)).code(), absl::StatusCode::kInvalidArgument);
  }
  router.Send(router.NewCall(2, -1)).IgnoreError();  // its answer may get lost when the connection is cut
  EXPECT_TRUE(router.CutOff());
  const auto offer = server_->Connect(RequestOf("router-a"));
  EXPECT_EQ(offer.status().code(), absl::StatusCode::kPermissionDenied) << offer.status();
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              HasSubstr("ucx: router-a at 127.0.0.1 is in quarantine after repeated offences"));
  Counted("connection", 1);
  EXPECT_THAT(metrics_->Text(), HasSubstr("conclave_expert_quarantines_total 1"));

  EXPECT_TRUE(bystander.Send(bystander.NewCall()).ok()) << "others are served on";
  AGoodCallSucceeds("router-c");
  clock_.Advance(PeerGate::kQuarantineMin);
  AGoodCallSucceeds("router-a");
}

TEST_F(HostilePeerTest, AHostThatGuessesTokensIsRefusedUntilTheShardExpectsSomebody) {
  for (int i = 0; i < PeerGate::kOffencesMax; ++i) {
    RawRouter guesser(*server_, "router-a");
    guesser.Greet(std::string(kTokenBytes, 'x'));
    EXPECT_TRUE(guesser.CutOff());
    Counted("token", i + 1);
  }
  EXPECT_FALSE(gate_.Admit("127.0.0.1").ok());
  // Whoever was admitted over the control channel a moment ago may be behind the same address.
  AGoodCallSucceeds("router-b");
}

}  // namespace
}  // namespace conclave
