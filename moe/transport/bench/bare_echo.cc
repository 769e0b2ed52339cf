#include "moe/transport/bench/bare_echo.h"

#include <atomic>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "moe/base/check.h"
#include "moe/transport/data_plane/body_buffer.h"
#include "moe/transport/data_plane/socket_address.h"
#include "moe/transport/data_plane/wire.h"

namespace conclave {
namespace {

constexpr unsigned kEcho = 1;
constexpr absl::Duration kSpinsOn = absl::Milliseconds(2);

std::unique_ptr<UcxWorker> Worker(UcxLinks links) {
  UcxWorkerOptions options;
  options.links = links;
  auto worker = UcxWorker::Create(options);
  CONCLAVE_CHECK_OK(worker.status());
  return *std::move(worker);
}

void OnError(void* broken, ucp_ep_h, ucs_status_t) { *static_cast<std::atomic<bool>*>(broken) = true; }

}  // namespace

// One endpoint and the last message that came.
struct EchoEnd {
  std::unique_ptr<UcxWorker> worker;
  ucp_ep_h endpoint = nullptr;
  std::atomic<bool> broken{false};
  bool copies = false;
  void* out = nullptr;
  BodyBuffer copy;
  int64_t received = -1;
  int pending = 0;
  std::byte header[sizeof(WireHeader)] = {};

  EchoEnd(UcxLinks links, bool copies_each) : worker(Worker(links)), copies(copies_each) {
    ucp_am_handler_param_t handler = {};
    handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                         UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
    handler.id = kEcho;
    handler.flags = UCP_AM_FLAG_WHOLE_MSG;
    handler.cb = [](void* self, const void*, size_t, void* data, size_t bytes, const ucp_am_recv_param_t*) {
      auto& end = *static_cast<EchoEnd*>(self);
      if (end.out != nullptr) std::memcpy(end.out, data, bytes);
      if (end.copies) {
        end.copy.Reserve(static_cast<int64_t>(bytes));
        std::memcpy(end.copy.data(), data, bytes);
      }
      end.received = static_cast<int64_t>(bytes);
      return UCS_OK;
    };
    handler.arg = this;
    ucp_worker_set_am_recv_handler(worker->handle(), &handler);
  }
  ~EchoEnd() {
    if (endpoint != nullptr) worker->Close(endpoint);
    worker->FinishClosing(absl::Seconds(1));
  }

  void Open(ucp_ep_params_t parameters) {
    parameters.field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
    parameters.err_mode = UCP_ERR_HANDLING_MODE_PEER;
    parameters.err_handler = {&OnError, &broken};
    CONCLAVE_CHECK(ucp_ep_create(worker->handle(), &parameters, &endpoint) == UCS_OK);
  }

  void Send(const void* data, int64_t bytes) {
    ucp_request_param_t parameters = {};
    parameters.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
    parameters.flags = UCP_AM_SEND_FLAG_EAGER;
    parameters.user_data = this;
    parameters.cb.send = [](void* request, ucs_status_t, void* self) {
      --static_cast<EchoEnd*>(self)->pending;
      ucp_request_free(request);
    };
    const ucs_status_ptr_t request =
        ucp_am_send_nbx(endpoint, kEcho, header, sizeof(header), data, static_cast<size_t>(bytes), &parameters);
    if (UCS_PTR_IS_PTR(request)) ++pending;
  }
};

struct BareEchoServer::Impl {
  explicit Impl(UcxLinks links) : end(links, /*copies_each=*/true) {}
  EchoEnd end;
  ucp_listener_h listener = nullptr;
  std::string address;
  std::atomic<bool> stop{false};
  std::thread thread;

  void Loop() {
    for (absl::Time last = absl::Now(); !stop;) {
      ucp_worker_progress(end.worker->handle());
      if (end.received >= 0 && end.pending == 0) {
        end.Send(end.copy.data(), std::exchange(end.received, -1));
        last = absl::Now();
      } else if (absl::Now() - last > kSpinsOn) {
        last = absl::Now();
        end.worker->Wait(last + absl::Seconds(1), /*bytes_moving=*/0, &last);
      }
    }
  }
};

BareEchoServer::BareEchoServer(UcxLinks links) : impl_(std::make_unique<Impl>(links)) {
  const auto any = SocketAddress::Parse("127.0.0.1:0");
  ucp_listener_params_t parameters = {};
  parameters.field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER;
  parameters.sockaddr = {any->get(), any->length()};
  parameters.conn_handler.arg = impl_.get();
  parameters.conn_handler.cb = [](ucp_conn_request_h request, void* impl) {
    ucp_ep_params_t endpoint = {};
    endpoint.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST;
    endpoint.conn_request = request;
    static_cast<Impl*>(impl)->end.Open(endpoint);
  };
  CONCLAVE_CHECK(ucp_listener_create(impl_->end.worker->handle(), &parameters, &impl_->listener) == UCS_OK);
  ucp_listener_attr_t bound = {};
  bound.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR;
  ucp_listener_query(impl_->listener, &bound);
  impl_->address = absl::StrCat("127.0.0.1:", SocketAddress(bound.sockaddr).port());
  impl_->thread = std::thread([this] { impl_->Loop(); });
}

BareEchoServer::~BareEchoServer() {
  impl_->stop = true;
  impl_->end.worker->Wake();
  impl_->thread.join();
  ucp_listener_destroy(impl_->listener);
}

const std::string& BareEchoServer::address() const { return impl_->address; }

struct BareEchoClient::Impl {
  explicit Impl(UcxLinks links) : end(links, /*copies_each=*/false) {}
  EchoEnd end;
};

BareEchoClient::BareEchoClient(UcxLinks links, const std::string& address) : impl_(std::make_unique<Impl>(links)) {
  const auto server = SocketAddress::Parse(address);
  CONCLAVE_CHECK_OK(server.status());
  ucp_ep_params_t endpoint = {};
  endpoint.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR;
  endpoint.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
  endpoint.sockaddr = {server->get(), server->length()};
  impl_->end.Open(endpoint);
}

BareEchoClient::~BareEchoClient() = default;

void BareEchoClient::RoundTrip(const void* data, int64_t bytes, void* out) {
  EchoEnd& end = impl_->end;
  end.out = out;
  end.Send(data, bytes);
  while (end.received < 0 || end.pending > 0) {
    ucp_worker_progress(end.worker->handle());
    CONCLAVE_CHECK(!end.broken) << "the echo server went away";
  }
  end.received = -1;
}

}  // namespace conclave
