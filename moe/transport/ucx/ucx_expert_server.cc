#include "moe/transport/ucx/ucx_expert_server.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "moe/base/log.h"
#include "moe/base/status_macros.h"
#include "moe/transport/data_plane/admit_router.h"
#include "moe/transport/data_plane/socket_address.h"
#include "moe/transport/data_plane/token_book.h"
#include "moe/transport/data_plane/wire.h"
#include "moe/transport/peer_gate.h"
#include "moe/transport/ucx/ucx_peer.h"

namespace conclave {
namespace {

constexpr absl::Duration kGreetTime = absl::Seconds(5);
constexpr absl::Duration kHousekeeping = absl::Seconds(1);
constexpr size_t kPeersMax = 1024;
// What one router may have waiting for its turn.
constexpr int kCallsQueuedMax = 256;
constexpr int64_t kBytesQueuedMax = int64_t{1} << 30;
constexpr size_t kKeptBodies = 8;
// Calls that wait for their turn in UCX's own memory, of which it has to find as much again for what comes.
constexpr size_t kCallsInPlaceMax = 8;

class Server final : public UcxExpertServer {
 public:
  Server(const UcxExpertServerOptions& options, std::unique_ptr<UcxWorker> worker)
      : own_gate_(options.gate == nullptr ? std::make_unique<PeerGate>(options.clock) : nullptr),
        gate_(options.gate == nullptr ? *own_gate_ : *options.gate),
        tokens_(options.clock),
        memory_(options.memory),
        worker_(std::move(worker)) {}

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
  struct WaitingCall {
    UcxPeer* peer = nullptr;
    WireHeader header;
    BodyBuffer body;             // all of it, or what comes before the rows
    std::byte* held = nullptr;   // the body in UCX's memory, to be given back; null: it was gathered
    absl::Time arrival;
  };

  void Loop() {
    now_ = absl::Now();
    for (bool came = false; !stop_;) {
      const bool worked = came || worker_->Progress();
      came = false;
      Accept(now_);
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
      if (!calls_.empty() || stop_) continue;
      if (worked) {
        now_ = absl::Now();
      } else {
        came = worker_->Wait(due, bytes_moving + std::exchange(bytes_served_, 0), &now_);
      }
    }
    for (auto& peer : peers_) peer->link().Close();
    std::move(peers_.begin(), peers_.end(), std::back_inserter(leaving_));
    peers_.clear();
    for (WaitingCall& call : calls_) GiveBack(call);
    calls_.clear();
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
    if ((parameters.recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0) {
      Offence(peer, Refusal::kMessage, absl::InvalidArgumentError("a rendezvous where none is expected"));
    } else if (absl::Status read = ReadFragment(header, bytes, &fragment); !read.ok()) {
      Offence(peer, Refusal::kMessage, read);
    } else if (fragment.kind == WireKind::kHello) {
      OnHello(peer, fragment, data, bytes);
    } else if (!peer.Owns(fragment) || fragment.kind != WireKind::kCall) {
      Offence(peer, Refusal::kToken, absl::UnauthenticatedError("a message without the connection's key"));
    } else {
      const bool may_keep = (parameters.recv_attr & UCP_AM_RECV_ATTR_FLAG_DATA) != 0 &&
                            reinterpret_cast<uintptr_t>(data) % kBodyAlignment == 0 &&
                            calls_.size() < kCallsInPlaceMax;
      if (may_keep && peer.gather().IsWhole(fragment, bytes)) return OnCallInPlace(peer, fragment, data);
      OnCallFragment(peer, fragment, data, bytes);
    }
    return false;
  }

  void OnCallFragment(UcxPeer& peer, const WireHeader& fragment, const std::byte* data, int64_t bytes) {
    const absl::StatusOr<bool> whole = peer.gather().Accept(fragment, data, bytes);
    if (absl::IsDataLoss(whole.status())) {
      gate_.Refuse(Carrier::kUcx, Refusal::kChecksum, peer.peer(), whole.status().message());
      Answer(peer, fragment, whole.status());
    } else if (!whole.ok()) {
      Offence(peer, Refusal::kMessage, whole.status());
    } else if (*whole && Admit(peer)) {
      calls_.back().body = peer.gather().Take(SpareBody());
    }
  }

  // A call that came whole: its rows are computed on where they lie. Ids and offsets are copied before they are
  // checked, since a peer on this machine could still write to that memory. True: `data` is in use.
  bool OnCallInPlace(UcxPeer& peer, const WireHeader& fragment, std::byte* data) {
    if (absl::Status accepted = peer.gather().AcceptInPlace(fragment); !accepted.ok()) {
      Offence(peer, Refusal::kMessage, accepted);
      return false;
    }
    if (!Admit(peer)) return false;
    WaitingCall& call = calls_.back();
    const int64_t meta_bytes = CallMetaBytes(fragment.rows, fragment.pairs);
    call.body = SpareBody();
    call.body.Reserve(meta_bytes);
    std::memcpy(call.body.data(), data, static_cast<size_t>(meta_bytes));
    call.held = data;
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

  // Puts the call that the peer has sent last into the queue, without its body. False: it is refused.
  bool Admit(UcxPeer& peer) {
    const WireHeader& header = peer.gather().header();
    if (draining_) {
      Answer(peer, header, absl::UnavailableError("the shard is draining"));
      return false;
    }
    const int64_t bytes = static_cast<int64_t>(header.body_bytes);
    if (peer.calls_queued >= kCallsQueuedMax || peer.bytes_queued + bytes > kBytesQueuedMax) {
      gate_.Refuse(Carrier::kUcx, Refusal::kOverload, peer.peer(), "too many calls wait for their turn");
      Answer(peer, header, absl::ResourceExhaustedError("too many calls of this router wait for their turn"));
      return false;
    }
    ++peer.calls_queued;
    peer.bytes_queued += bytes;
    WaitingCall& call = calls_.emplace_back();
    call.peer = &peer;
    call.header = header;
    call.arrival = now_;
    return true;
  }

  // Memory of an earlier message for the next one.
  BodyBuffer SpareBody() {
    if (bodies_.empty()) return BodyBuffer(memory_);
    BodyBuffer spare = std::move(bodies_.back());
    bodies_.pop_back();
    return spare;
  }

  // The call is over: its memory serves others.
  void GiveBack(WaitingCall& call) {
    if (call.held != nullptr) ucp_am_data_release(worker_->handle(), std::exchange(call.held, nullptr));
    call.body.Trim();
    if (bodies_.size() < kKeptBodies) bodies_.push_back(std::move(call.body));
  }

  void Answer(UcxPeer& peer, const WireHeader& call, const absl::Status& status) {
    auto reply = peer.NewReply();
    reply->text = WireText(status);
    reply->message.header = ReplyTo(call, status, static_cast<int64_t>(reply->text.size()));
    reply->message.rows = reinterpret_cast<const std::byte*>(reply->text.data());
    Send(peer, std::move(reply));
  }

  void Send(UcxPeer& peer, std::unique_ptr<UcxReply> reply) {
    WireHeader& header = reply->message.header;
    if ((header.flags & kWireChecksummed) != 0) {
      checksum_.Begin(header);
      checksum_.Add(reply->message.rows, static_cast<int64_t>(header.body_bytes));
      header.checksum = checksum_.Digest();
    }
    peer.Send(std::move(reply));
  }

  // Runs the call whose turn it is.
  void ServeOne() {
    if (calls_.empty()) return;
    WaitingCall call = std::move(calls_.front());
    calls_.pop_front();
    UcxPeer& peer = *call.peer;
    --peer.calls_queued;
    peer.bytes_queued -= static_cast<int64_t>(call.header.body_bytes);
    const int64_t meta_bytes = CallMetaBytes(call.header.rows, call.header.pairs);
    const std::byte* const rows = (call.held != nullptr ? call.held : call.body.data()) + meta_bytes;
    const absl::StatusOr<ExpertCall> decoded =
        ReadCall(call.header, call.body.data(), rows, &unpacked_, CallLimits{}, call.arrival);
    absl::Status status = decoded.status();
    if (status.ok()) {
      auto reply = peer.NewReply();
      const int64_t cols = decoded->rows.cols;
      const DType dtype = decoded->rows.dtype;
      reply->body.Reserve(decoded->pairs() * cols * SizeOf(dtype));
      const MatView out{reply->body.data(), dtype, Device::kCpu, decoded->pairs(), cols, cols};
      status = handler_.load()->Run(*decoded, out);
      if (status.ok()) {
        reply->message.header = ReplyTo(call.header, status, 0);
        bytes_served_ = static_cast<int64_t>(call.header.body_bytes + reply->message.header.body_bytes);
        reply->message.rows = reply->body.data();
        Send(peer, std::move(reply));
      }
    }
    if (!status.ok()) Answer(peer, call.header, status);
    if (absl::IsInvalidArgument(status)) OffendingCall(peer, status);
    GiveBack(call);
    unpacked_.Trim();
    now_ = absl::Now();
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
      const auto its_calls =
          std::stable_partition(calls_.begin(), calls_.end(), [&](const auto& call) { return call.peer != &peer; });
      std::for_each(its_calls, calls_.end(), [this](WaitingCall& call) { GiveBack(call); });
      calls_.erase(its_calls, calls_.end());
      peer.link().Close();
      leaving_.push_back(std::move(peers_[i]));
      peers_.erase(peers_.begin() + static_cast<int64_t>(i));
    }
    if (!leaving_.empty()) Reap();
  }

  void Reap() {
    for (auto& peer : leaving_) peer->Pump();
    leaving_.erase(std::remove_if(leaving_.begin(), leaving_.end(), [](auto& peer) { return peer->link().idle(); }),
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
  const HostMemory memory_;
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
  std::deque<WaitingCall> calls_;
  std::vector<BodyBuffer> bodies_;
  BodyBuffer unpacked_;  // rows of the call that runs
  WireChecksum checksum_;
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<UcxExpertServer>> UcxExpertServer::Start(const UcxExpertServerOptions& options) {
  ASSIGN_OR_RETURN(const SocketAddress address, SocketAddress::Parse(options.address));
  UcxWorkerOptions worker_options = options.worker;
  worker_options.loopback_only = address.IsLoopback();
  ASSIGN_OR_RETURN(auto worker, UcxWorker::Create(worker_options));
  auto server = std::make_unique<Server>(options, std::move(worker));
  if (absl::Status listening = server->Listen(address); !listening.ok()) {
    return absl::UnavailableError(absl::StrCat("cannot listen for activations on ", options.address, ": ",
                                               std::string(listening.message()), "; is the port in use?"));
  }
  return std::unique_ptr<UcxExpertServer>(std::move(server));
}

}  // namespace conclave
