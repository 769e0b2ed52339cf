#include "moe/transport/ucx/ucx_expert_server.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "moe/base/log.h"
#include "moe/base/status_macros.h"
#include "moe/transport/data_plane/admit_router.h"
#include "moe/transport/data_plane/body_buffer.h"
#include "moe/transport/data_plane/socket_address.h"
#include "moe/transport/data_plane/token_book.h"
#include "moe/transport/data_plane/wire.h"
#include "moe/transport/peer_gate.h"
#include "moe/transport/ucx/ucx_calls.h"
#include "moe/transport/ucx/ucx_peer.h"

namespace conclave {
namespace {

constexpr absl::Duration kGreetTime = absl::Seconds(5);
constexpr absl::Duration kHousekeeping = absl::Seconds(1);
constexpr size_t kPeersMax = 1024;
// What one router may have waiting for its turn.
constexpr int kCallsQueuedMax = 256;
constexpr int64_t kBytesQueuedMax = int64_t{1} << 30;
// What it may take to fetch rows from another device: looks in between, where UCX does not tell, and bytes.
constexpr absl::Duration kFetchLook = absl::Milliseconds(1);
constexpr int64_t kFetchBytes = int64_t{1} << 20;
// Calls that wait for their turn in UCX's own memory, of which it has to find as much again for what comes.
constexpr size_t kCallsInPlaceMax = 8;

class Server final : public UcxExpertServer {
 public:
  Server(const UcxExpertServerOptions& options, std::unique_ptr<UcxWorker> worker)
      : own_gate_(options.gate == nullptr ? std::make_unique<PeerGate>(options.clock) : nullptr),
        gate_(options.gate == nullptr ? *own_gate_ : *options.gate),
        tokens_(options.clock),
        memory_{options.memory, options.device_memory},
        make_current_(options.make_current),
        worker_(std::move(worker)),
        calls_(*worker_, options.memory) {}

  ~Server() override {
    stop_ = true;
    worker_->Wake();
    if (thread_.joinable()) thread_.join();
    if (listener_ == nullptr) return;
    for (const Arrival& arrival : arrivals_) ucp_listener_reject(listener_, arrival.request);
    ucp_listener_destroy(listener_);
  }

  absl::Status Listen(const SocketAddress& address) {
    ucp_am_handler_param_t handler = {};
    handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                         UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
    handler.id = kWireActiveMessage;
    handler.flags = UCP_AM_FLAG_WHOLE_MSG;
    handler.cb = &Server::OnActiveMessage;
    handler.arg = this;
    ucp_worker_set_am_recv_handler(worker_->handle(), &handler);
    ucp_listener_params_t parameters = {};
    parameters.field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER;
    parameters.sockaddr = {address.get(), address.length()};
    parameters.conn_handler = {&Server::OnConnectionRequest, this};
    if (const ucs_status_t status = ucp_listener_create(worker_->handle(), &parameters, &listener_); status != UCS_OK) {
      listener_ = nullptr;
      return UcxError("listening", status);
    }
    ucp_listener_attr_t bound = {};
    bound.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR;
    ucp_listener_query(listener_, &bound);
    const bool v6 = address.get()->sa_family == AF_INET6;
    address_ = absl::StrCat(v6 ? "[" : "", address.Host(), v6 ? "]:" : ":", SocketAddress(bound.sockaddr).port());
    thread_ = std::thread([this] { Loop(); });
    return absl::OkStatus();
  }

  const std::string& address() const override { return address_; }

  void SetHandler(ExpertHandler* handler) override { handler_ = handler; }

  absl::StatusOr<DataPlaneOffer> Connect(const DataPlaneRequest& request) override {
    if (draining_) return absl::UnavailableError("the shard is draining");
    ExpertHandler* const handler = handler_;
    if (handler == nullptr) return absl::UnavailableError("the shard is not ready");
    ASSIGN_OR_RETURN(DataPlaneOffer offer, AdmitRouter(request, handler->Describe(), Carrier::kUcx, gate_, tokens_));
    offer.address = address_;
    if (!request.device_rows) return offer;
    offer.device_rows = worker_->device_rows() && handler->TakesDeviceRows();
    if (!handler->TakesDeviceRows()) {
      offer.why_no_device_rows = "the shard computes on a CPU";
    } else if (!offer.device_rows) {
      offer.why_no_device_rows = "the shard's UCX was built without CUDA";
    }
    return offer;
  }

  void Drain(absl::Time deadline) override {
    draining_ = true;
    worker_->Wake();
    std::unique_lock<std::mutex> lock(mutex_);
    drained_cv_.wait_until(lock, absl::ToChronoTime(std::min(deadline, absl::Now() + absl::Hours(1))),
                           [&] { return drained_.load(); });
  }

 private:
  struct Arrival {
    ucp_conn_request_h request;
    std::string host;
  };
  void Loop() {
    if (make_current_) make_current_();
    now_ = absl::Now();
    for (bool came = false; !stop_;) {
      const bool worked = came || worker_->Progress();
      came = false;
      Accept(now_);
      calls_.Fetch([this](const UcxCall& call) {
        Answer(*call.peer, call.header, absl::ResourceExhaustedError("the device has no room for the call's rows"));
      });
      ServeOne();
      absl::Time due = now_ + kHousekeeping;
      int64_t bytes_moving = 0;
      for (auto& peer : peers_) {
        peer->Pump();
        due = std::min(due, peer->greet_by());
        bytes_moving += peer->gather().bytes_missing() + peer->bytes_unsent();
      }
      CutOff(now_);
      if (draining_ && !drained_) FinishDrain();
      if (calls_.ready() || stop_) continue;
      if (!calls_.empty()) {
        due = std::min(due, now_ + kFetchLook);
        bytes_moving += kFetchBytes;
      }
      if (worked) {
        now_ = absl::Now();
      } else {
        came = worker_->Wait(due, bytes_moving + std::exchange(bytes_served_, 0), &now_);
      }
    }
    for (auto& peer : peers_) peer->link().Close();
    std::move(peers_.begin(), peers_.end(), std::back_inserter(leaving_));
    peers_.clear();
    calls_.Drop(nullptr);
    for (const absl::Time until = absl::Now() + absl::Seconds(2); !leaving_.empty() && absl::Now() < until;) {
      worker_->Progress();
      Reap();
    }
    for (auto& peer : leaving_) [[maybe_unused]] UcxPeer* const left = peer.release();
    leaving_.clear();
  }

  static void OnConnectionRequest(ucp_conn_request_h request, void* self) {
    ucp_conn_request_attr_t attributes = {};
    attributes.field_mask = UCP_CONN_REQUEST_ATTR_FIELD_CLIENT_ADDR;
    std::string host = "unknown";
    if (ucp_conn_request_query(request, &attributes) == UCS_OK) {
      host = SocketAddress(attributes.client_address).Host();
    }
    static_cast<Server*>(self)->arrivals_.push_back({request, std::move(host)});
  }

  void Accept(absl::Time now) {
    for (; !arrivals_.empty(); arrivals_.pop_front()) {
      const Arrival& arrival = arrivals_.front();
      // Behind a host in quarantine may also be a router that was let in a moment ago.
      const bool welcome =
          !draining_ && peers_.size() < kPeersMax && (gate_.Admit(arrival.host).ok() || tokens_.Expecting());
      if (!welcome) {
        gate_.Refuse(Carrier::kUcx, Refusal::kConnection, Peer{"", arrival.host},
                     "too many connections, draining, or in quarantine");
        ucp_listener_reject(listener_, arrival.request);
        continue;
      }
      auto peer = std::make_unique<UcxPeer>(*worker_, arrival.host, now + kGreetTime, memory_);
      if (const absl::Status accepted = peer->link().Accept(arrival.request); !accepted.ok()) {
        LogWarning(absl::StrCat("ucx: ", arrival.host, " could not connect: ", std::string(accepted.message())));
        continue;
      }
      peers_.push_back(std::move(peer));
    }
  }

  static ucs_status_t OnActiveMessage(void* self, const void* header, size_t header_bytes, void* data, size_t bytes,
                                      const ucp_am_recv_param_t* parameters) {
    const bool kept = static_cast<Server*>(self)->OnFragment(
        absl::MakeConstSpan(static_cast<const std::byte*>(header), header_bytes), static_cast<std::byte*>(data),
        static_cast<int64_t>(bytes), *parameters);
    return kept ? UCS_INPROGRESS : UCS_OK;
  }

  // True: `data` is still in use.
  bool OnFragment(absl::Span<const std::byte> header, std::byte* data, int64_t bytes,
                  const ucp_am_recv_param_t& parameters) {
    const bool named = (parameters.recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP) != 0;
    const auto at = std::find_if(peers_.begin(), peers_.end(), [&](const auto& peer) {
      return named && peer->link().endpoint() == parameters.reply_ep;
    });
    if (at == peers_.end()) {
      gate_.Refuse(Carrier::kUcx, Refusal::kMessage, Peer{"", "an unknown connection"}, "a message without a sender");
      return false;
    }
    UcxPeer& peer = **at;
    if (!peer.doom().ok()) return false;
    WireHeader fragment;
    const bool offered = (parameters.recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0;
    if (offered && !TakesDeviceRows()) {
      Offence(peer, Refusal::kMessage, absl::InvalidArgumentError("a rendezvous where none is expected"));
    } else if (absl::Status read = ReadFragment(header, bytes, &fragment); !read.ok()) {
      Offence(peer, Refusal::kMessage, read);
    } else if (fragment.kind == WireKind::kHello && !offered) {
      OnHello(peer, fragment, data, bytes);
    } else if (!peer.Owns(fragment) || fragment.kind != WireKind::kCall) {
      Offence(peer, Refusal::kToken, absl::UnauthenticatedError("a message without the connection's key"));
    } else if (offered) {
      return OnRowsOffered(peer, fragment, data, bytes);
    } else if ((fragment.flags & kWireDeviceRows) != 0 && !TakesDeviceRows()) {
      Offence(peer, Refusal::kMessage, absl::InvalidArgumentError("flags: rows on a device, which was not agreed on"));
    } else {
      const bool may_keep = (parameters.recv_attr & UCP_AM_RECV_ATTR_FLAG_DATA) != 0 &&
                            reinterpret_cast<uintptr_t>(data) % kBodyAlignment == 0 &&
                            calls_.size() < kCallsInPlaceMax;
      if (may_keep && peer.gather().IsWhole(fragment, bytes)) return OnCallInPlace(peer, fragment, data);
      OnCallFragment(peer, fragment, data, bytes);
    }
    return false;
  }

  bool TakesDeviceRows() const { return worker_->device_rows() && handler_.load()->TakesDeviceRows(); }

  // True: the offer is kept.
  bool OnRowsOffered(UcxPeer& peer, const WireHeader& fragment, void* offer, int64_t bytes) {
    const absl::Status accepted = peer.gather().AcceptOffer(fragment, bytes);
    if (absl::IsDataLoss(accepted)) {
      gate_.Refuse(Carrier::kUcx, Refusal::kChecksum, peer.peer(), accepted.message());
      Answer(peer, fragment, accepted);
    } else if (!accepted.ok()) {
      Offence(peer, Refusal::kMessage, accepted);
    }
    UcxCall* const call = accepted.ok() ? Admit(peer) : nullptr;
    if (call == nullptr) return false;
    call->body = peer.gather().Take(calls_.SpareBody());
    call->on_device = true;
    call->offer = offer;
    return true;
  }

  void OnCallFragment(UcxPeer& peer, const WireHeader& fragment, const std::byte* data, int64_t bytes) {
    const absl::StatusOr<bool> whole = peer.gather().Accept(fragment, data, bytes);
    if (absl::IsDataLoss(whole.status())) {
      gate_.Refuse(Carrier::kUcx, Refusal::kChecksum, peer.peer(), whole.status().message());
      Answer(peer, fragment, whole.status());
    } else if (!whole.ok()) {
      Offence(peer, Refusal::kMessage, whole.status());
    } else if (*whole) {
      if (UcxCall* const call = Admit(peer); call != nullptr) call->body = peer.gather().Take(calls_.SpareBody());
    }
  }

  // A call that came whole: its rows are computed on where they lie. Ids and offsets are copied before they are
  // checked, since a peer on this machine could still write to that memory. True: `data` is in use.
  bool OnCallInPlace(UcxPeer& peer, const WireHeader& fragment, std::byte* data) {
    if (absl::Status accepted = peer.gather().AcceptInPlace(fragment); !accepted.ok()) {
      Offence(peer, Refusal::kMessage, accepted);
      return false;
    }
    UcxCall* const call = Admit(peer);
    if (call == nullptr) return false;
    const int64_t meta_bytes = CallMetaBytes(fragment.rows, fragment.pairs);
    call->body = calls_.SpareBody();
    call->body.Reserve(meta_bytes);
    std::memcpy(call->body.data(), data, static_cast<size_t>(meta_bytes));
    call->held = data;
    return true;
  }

  void OnHello(UcxPeer& peer, const WireHeader& hello, const void* data, int64_t bytes) {
    const absl::string_view token(static_cast<const char*>(data), static_cast<size_t>(bytes));
    absl::StatusOr<std::string> name = absl::UnauthenticatedError("it said who it is already");
    if (!peer.greeted()) name = tokens_.Redeem(hello.connection, token);
    if (!name.ok()) {
      Offence(peer, Refusal::kToken, name.status());
      return peer.Refuse(hello, token, name.status());
    }
    uint64_t key = 0;
    std::memcpy(&key, token.data(), sizeof(key));
    peer.Welcome(*std::move(name), hello, key);
    LogInfo(absl::StrCat("ucx: ", peer.peer().Who(), " connected"));
  }

  // Puts the call that the peer has sent last into the queue, without its body. Null: it is refused.
  UcxCall* Admit(UcxPeer& peer) {
    const WireHeader& header = peer.gather().header();
    if (draining_) {
      Answer(peer, header, absl::UnavailableError("the shard is draining"));
      return nullptr;
    }
    const int64_t bytes = static_cast<int64_t>(header.body_bytes);
    if (peer.calls_queued >= kCallsQueuedMax || peer.bytes_queued + bytes > kBytesQueuedMax) {
      gate_.Refuse(Carrier::kUcx, Refusal::kOverload, peer.peer(), "too many calls wait for their turn");
      Answer(peer, header, absl::ResourceExhaustedError("too many calls of this router wait for their turn"));
      return nullptr;
    }
    return &calls_.Add(peer, header, now_);
  }

  void Answer(UcxPeer& peer, const WireHeader& call, const absl::Status& status) {
    auto reply = peer.NewReply();
    reply->text = WireText(status);
    reply->message.header = ReplyTo(call, status, static_cast<int64_t>(reply->text.size()));
    reply->message.rows = reinterpret_cast<const std::byte*>(reply->text.data());
    peer.Send(std::move(reply));
  }

  // Runs the call whose turn it is.
  void ServeOne() {
    absl::optional<UcxCall> call = calls_.TakeReady();
    if (!call.has_value()) return;
    UcxPeer& peer = *call->peer;
    const absl::Status fetched = call->on_device ? peer.fetch().status() : absl::OkStatus();
    if (fetched.ok()) {
      Run(*call);
    } else {
      peer.Doom(fetched);
    }
    calls_.GiveBack(*call);
    unpacked_.Trim();
    now_ = absl::Now();
  }

  void Run(const UcxCall& call) {
    UcxPeer& peer = *call.peer;
    const std::byte* rows = peer.device_rows().data();
    if (!call.on_device) {
      rows = (call.held != nullptr ? call.held : call.body.data()) + CallMetaBytes(call.header.rows, call.header.pairs);
    }
    absl::StatusOr<ExpertCall> decoded =
        ReadCall(call.header, call.body.data(), rows, &unpacked_, CallLimits{}, call.arrival);
    absl::Status status = decoded.status();
    if (status.ok()) status = Compute(call, *decoded);
    if (!status.ok()) Answer(peer, call.header, status);
    if (absl::IsInvalidArgument(status)) OffendingCall(peer, status);
  }

  // Has the call's results computed and sends them. Errors are for the router; where some results are on their way
  // already, its connection is cut instead.
  absl::Status Compute(const UcxCall& call, ExpertCall& decoded) {
    UcxPeer& peer = *call.peer;
    auto reply = peer.NewReply();
    const Device device = call.on_device ? Device::kCuda : Device::kCpu;
    const int64_t cols = decoded.rows.cols;
    const DType dtype = decoded.rows.dtype;
    decoded.rows.device = device;
    std::byte* const results = MakeRoom(*reply, decoded.pairs() * cols * SizeOf(dtype), device);
    if (results == nullptr) return absl::ResourceExhaustedError("the device has no room for the call's results");
    const MatView out{results, dtype, device, decoded.pairs(), cols, cols};
    OutgoingMessage& message = reply->message;
    message.header = ReplyTo(call.header, absl::OkStatus(), 0);
    message.rows = results;
    const bool in_pieces =
        !call.on_device && ((call.header.flags & kWireChecksummed) == 0 || ChecksumComesLast(call.header));
    const auto send = [&](int64_t complete_bytes) {
      message.complete_bytes = complete_bytes;
      if (reply != nullptr) {
        peer.Send(std::move(reply));
      } else {
        peer.link().Pump();
      }
    };
    const auto landed = [&](int64_t bytes) {
      send(bytes);
      now_ = absl::Now();
      worker_->Progress();  // or UCX takes no more than it has room for
    };
    ExpertHandler& handler = *handler_.load();
    const absl::Status status = in_pieces ? handler.RunInPieces(decoded, out, landed) : handler.Run(decoded, out);
    if (!status.ok() && reply == nullptr) {
      peer.Doom(status);
      return absl::OkStatus();
    }
    if (!status.ok()) return status;
    bytes_served_ = static_cast<int64_t>(call.header.body_bytes + message.header.body_bytes);
    send(std::numeric_limits<int64_t>::max());
    return absl::OkStatus();
  }

  // Null: the device has none.
  static std::byte* MakeRoom(UcxReply& reply, int64_t bytes, Device device) {
    if (device == Device::kCuda) return reply.device_body.TryReserve(bytes) ? reply.device_body.data() : nullptr;
    reply.body.Reserve(std::max<int64_t>(bytes, 1));
    return reply.body.data();
  }

  // A whole message that asks for what cannot be: refused, and the connection stays until there are too many of them.
  void OffendingCall(UcxPeer& peer, const absl::Status& why) {
    if (gate_.Offend(Carrier::kUcx, Refusal::kCall, peer.peer(), why.message())) peer.Doom(why);
  }

  // A message after which nothing on this connection can be trusted.
  void Offence(UcxPeer& peer, Refusal kind, const absl::Status& why) {
    gate_.Offend(Carrier::kUcx, kind, peer.peer(), why.message());
    peer.Doom(why);
  }

  void CutOff(absl::Time now) {
    for (size_t i = peers_.size(); i-- > 0;) {
      UcxPeer& peer = *peers_[i];
      if (!peer.Doomed(now)) continue;
      LogInfo(absl::StrCat("ucx: ", peer.peer().Who(), " is gone: ", std::string(peer.doom().message())));
      calls_.Drop(&peer);
      peer.link().Close();
      leaving_.push_back(std::move(peers_[i]));
      peers_.erase(peers_.begin() + static_cast<int64_t>(i));
    }
    if (!leaving_.empty()) Reap();
  }

  void Reap() {
    for (auto& peer : leaving_) peer->Pump();
    leaving_.erase(std::remove_if(leaving_.begin(), leaving_.end(), [](auto& peer) { return peer->idle(); }),
                   leaving_.end());
  }

  void FinishDrain() {
    const auto quiet = [](const auto& peer) { return peer->Quiet(); };
    if (!calls_.empty() || !std::all_of(peers_.begin(), peers_.end(), quiet)) return;
    for (auto& peer : peers_) peer->Doom(absl::UnavailableError("the shard is draining"));
    CutOff(absl::Now());
    std::lock_guard<std::mutex> lock(mutex_);
    drained_ = true;
    drained_cv_.notify_all();
  }

  const std::unique_ptr<PeerGate> own_gate_;  // null: another's is used
  PeerGate& gate_;
  TokenBook tokens_;
  const UcxMemory memory_;
  const std::function<void()> make_current_;
  std::string address_;
  std::atomic<ExpertHandler*> handler_{nullptr};
  std::atomic<bool> stop_{false}, draining_{false};
  std::mutex mutex_;
  std::condition_variable drained_cv_;
  std::atomic<bool> drained_{false};  // written under mutex_

  // The thread's own.
  absl::Time now_;             // as of the last wait or the last call
  int64_t bytes_served_ = 0;   // of the call just answered: its router takes them in before it can send the next
  const std::unique_ptr<UcxWorker> worker_;
  ucp_listener_h listener_ = nullptr;
  std::deque<Arrival> arrivals_;
  std::vector<std::unique_ptr<UcxPeer>> peers_, leaving_;
  UcxCalls calls_;
  BodyBuffer unpacked_;  // rows of the call that runs
  std::thread thread_;
};

}  // namespace

int64_t UcxDeviceBytesMax(int64_t rows_bytes, int64_t results_bytes) {
  const int64_t bytes = BodyBuffer::GivenBytes(rows_bytes) +
                        UcxCalls::kResultsOfferedMax * BodyBuffer::GivenBytes(results_bytes);
  return bytes + bytes / 2;  // a piece that is outgrown goes once there is the next one, which is twice as large
}

absl::StatusOr<std::unique_ptr<UcxExpertServer>> UcxExpertServer::Start(const UcxExpertServerOptions& options) {
  ASSIGN_OR_RETURN(const SocketAddress address, SocketAddress::Parse(options.address));
  UcxWorkerOptions worker_options = options.worker;
  worker_options.loopback_only = address.IsLoopback();
  if (options.make_current) options.make_current();
  ASSIGN_OR_RETURN(auto worker, UcxWorker::Create(worker_options));
  auto server = std::make_unique<Server>(options, std::move(worker));
  if (absl::Status listening = server->Listen(address); !listening.ok()) {
    return absl::UnavailableError(absl::StrCat("cannot listen for activations on ", options.address, ": ",
                                               std::string(listening.message()), "; is the port in use?"));
  }
  return std::unique_ptr<UcxExpertServer>(std::move(server));
}

}  // namespace conclave
