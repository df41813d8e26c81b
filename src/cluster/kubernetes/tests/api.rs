//! A small Kubernetes API over plain HTTP: objects by name, versions, patches, watches. It refuses
//! what has no name, as the Role does, but for new Events.

// Other tests include this file by its path.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::watch;

/// The API, serving. A clone is the same one.
#[derive(Clone)]
pub struct Api {
    pub address: SocketAddr,
    world: World,
}

#[derive(Clone)]
struct World {
    /// Objects by path.
    objects: Arc<Mutex<BTreeMap<String, Value>>>,
    /// The version of the world, with every change.
    version: Arc<watch::Sender<u64>>,
    /// How it behaves.
    mood: Arc<Mutex<Mood>>,
    /// `METHOD path` of each call.
    calls: Arc<Mutex<Vec<String>>>,
    /// Whether whoever calls is a person, who may read all and ask what they may do.
    person: Arc<Mutex<Option<Person>>>,
}

/// How the API behaves.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Mood {
    #[default]
    Fine,
    /// No answer, ever.
    Hanging,
    /// 403 for all.
    Forbidding,
    /// This code for all but its version, also as an answer to whether something may be done.
    Failing(u16),
    /// 403 for watches alone, as from a kube-apiserver that has not read all roles yet.
    ForbiddingWatches,
    /// 403 for Events alone: the Role is of an older version.
    ForbiddingEvents,
    /// A policy without a reason denies to write the webhook configuration.
    DenyingBundles,
    /// Another has become holder of the Lease whenever a write to it is answered.
    Stealing,
}

/// Who may read everything.
#[derive(Debug, Clone, Default)]
pub struct Person {
    /// Resources that they may do nothing with.
    pub denied: Vec<&'static str>,
}

pub const SECRET: &str = "/api/v1/namespaces/ns/secrets/imageswap-tls";
pub const CA_SECRET: &str = "/api/v1/namespaces/ns/secrets/imageswap-tls-ca";
pub const CONFIGURATION: &str =
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/imageswap-webhook";
pub const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/imageswap-leader";
pub const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/ns/deployments/imageswap";
pub const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/ns/events";

impl Api {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let world = World {
            objects: Arc::default(),
            version: Arc::new(watch::Sender::new(1)),
            mood: Arc::default(),
            calls: Arc::default(),
            person: Arc::default(),
        };
        let router = Router::new().fallback(answer).with_state(world.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, world }
    }

    pub fn object(&self, path: &str) -> Option<Value> {
        self.world.objects.lock().unwrap().get(path).cloned()
    }

    /// As anybody else would write it.
    pub fn put(&self, path: &str, object: Value) {
        self.world.put(path, object, "someone");
    }

    /// Without what the API adds.
    pub fn put_as_is(&self, path: &str, object: Value) {
        let mut objects = self.world.objects.lock().unwrap();
        objects.insert(path.to_owned(), object);
    }

    pub fn delete(&self, path: &str) {
        self.world.objects.lock().unwrap().remove(path);
        self.world.version.send_modify(|version| *version += 1);
    }

    pub fn set_person(&self, person: Person) {
        *self.world.person.lock().unwrap() = Some(person);
    }

    pub fn set_mood(&self, mood: Mood) {
        *self.world.mood.lock().unwrap() = mood;
    }

    /// The Events with this reason.
    pub fn events(&self, reason: &str) -> Vec<Value> {
        let objects = self.world.objects.lock().unwrap();
        let events = objects
            .iter()
            .filter(|(path, event)| path.starts_with(EVENTS) && event["reason"] == json!(reason));
        events.map(|(_, event)| event.clone()).collect()
    }

    /// What was made without a name in the path, Events aside.
    pub fn nameless(&self) -> Vec<String> {
        let posts = |call: &String| call.starts_with("POST") && *call != format!("POST {EVENTS}");
        self.calls().into_iter().filter(posts).collect()
    }

    pub fn calls(&self) -> Vec<String> {
        self.world.calls.lock().unwrap().clone()
    }
}

impl World {
    fn put(&self, path: &str, mut object: Value, manager: &str) -> Value {
        self.version.send_modify(|version| *version += 1);
        let version = self.version.borrow().to_string();
        let name = path.rsplit('/').next().unwrap();
        object["metadata"]["name"] = json!(name);
        object["metadata"]["resourceVersion"] = json!(version);
        object["metadata"]["managedFields"] =
            json!([{"manager": manager, "fieldsV1": bundles(&object)}]);
        self.objects
            .lock()
            .unwrap()
            .insert(path.to_owned(), object.clone());
        object
    }
}

/// Whether a path names a kind, and no object of it.
fn is_collection(path: &str) -> bool {
    let parts: Vec<_> = path.split('/').skip(1).collect();
    // `api/v1/…` or `apis/GROUP/v1/…`
    let rest = parts
        .get(if parts[0] == "api" { 2.. } else { 3.. })
        .unwrap_or_default();
    match rest {
        ["namespaces", _, kind @ ..] => kind.len() == 1,
        kind => kind.len() == 1,
    }
}

/// The fields that a configuration's last writer is taken to have written: all caBundles.
fn bundles(object: &Value) -> Value {
    let hooks = object["webhooks"].as_array().into_iter().flatten();
    let written = hooks.filter(|hook| !hook["clientConfig"]["caBundle"].is_null());
    let fields = written.map(|hook| {
        let key = format!("k:{}", json!({"name": hook["name"]}));
        (key, json!({"f:clientConfig": {"f:caBundle": {}}}))
    });
    json!({"f:webhooks": fields.collect::<serde_json::Map<_, _>>()})
}

async fn answer(State(world): State<World>, request: Request<Body>) -> Response {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let query = head.uri.query().unwrap_or_default().to_owned();
    let call = format!("{} {path}", head.method);
    world.calls.lock().unwrap().push(call.clone());
    let mood = *world.mood.lock().unwrap();
    if mood == Mood::Hanging {
        std::future::pending::<()>().await;
    }
    let named = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("fieldSelector=metadata.name%3D"));
    let found = world.objects.lock().unwrap().get(&path).cloned();
    let person = world.person.lock().unwrap().clone();
    match head.method {
        _ if mood == Mood::Forbidding => refuse(403, &call),
        _ if let Mood::Failing(code) = mood
            && path != "/version" =>
        {
            refuse(code, &call)
        }
        Method::POST if path.ends_with("/selfsubjectaccessreviews") && person.is_some() => {
            let body = body.collect().await.unwrap().to_bytes();
            let mut review: Value = serde_json::from_slice(&body).unwrap();
            let asked = &review["spec"]["resourceAttributes"]["resource"];
            let denied = person.unwrap_or_default().denied;
            // One that may not do all may not do `*`.
            let is_denied = denied.iter().any(|one| asked == one || asked == "*");
            review["status"] = json!({"allowed": !is_denied});
            reply(&review)
        }
        Method::GET if path == "/version" => reply(&json!({
            "major": "1", "minor": "37", "gitVersion": "v1.37.2", "gitCommit": "",
            "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": "",
        })),
        Method::GET if person.is_some() => match found {
            Some(object) => reply(&object),
            None if is_collection(&path) => {
                let objects = world.objects.lock().unwrap();
                let parent = |one: &str| one.rsplit_once('/').map(|(parent, _)| parent.to_owned());
                let items = objects
                    .iter()
                    .filter(|(one, _)| parent(one).as_ref() == Some(&path));
                let items: Vec<_> = items.map(|(_, object)| object).collect();
                let number = |name: &str| {
                    let mut pairs = query.split('&');
                    pairs.find_map(|pair| pair.strip_prefix(name)?.parse().ok())
                };
                let from = number("continue=").unwrap_or(0);
                let end = from + number("limit=").unwrap_or(items.len());
                let next = (end < items.len()).then(|| end.to_string());
                let items = items.get(from..end.min(items.len()));
                reply(&json!({"metadata": {"continue": next}, "items": items}))
            }
            None => refuse(404, &call),
        },
        _ if mood == Mood::ForbiddingEvents && path.starts_with(EVENTS) => refuse(403, &call),
        Method::POST if path == EVENTS => {
            let body = body.collect().await.unwrap().to_bytes();
            let event: Value = serde_json::from_slice(&body).unwrap();
            let one = format!("{path}/{}", event["metadata"]["name"].as_str().unwrap());
            if world.objects.lock().unwrap().contains_key(&one) {
                return refuse(409, &call);
            }
            reply(&world.put(&one, event, "someone"))
        }
        // A list or a watch of one object, which a Role can name.
        Method::GET if named.is_some() => {
            let one = format!("{path}/{}", named.unwrap());
            if query.contains("watch=true") && mood == Mood::ForbiddingWatches {
                refuse(403, &call)
            } else if query.contains("watch=true") {
                watch_one(&world, one)
            } else {
                let version = world.version.borrow().to_string();
                let items: Vec<_> = world
                    .objects
                    .lock()
                    .unwrap()
                    .get(&one)
                    .map(partial)
                    .into_iter()
                    .collect();
                reply(&json!({
                    "apiVersion": "meta.k8s.io/v1",
                    "kind": "PartialObjectMetadataList",
                    "metadata": {"resourceVersion": version},
                    "items": items,
                }))
            }
        }
        Method::GET
            if [SECRET, CA_SECRET, CONFIGURATION, LEASE, DEPLOYMENT].contains(&path.as_str()) =>
        {
            match found {
                Some(object) => reply(&object),
                None => refuse(404, &call),
            }
        }
        Method::PATCH if mood == Mood::DenyingBundles && path == CONFIGURATION => refuse_as(
            422,
            "mutatingwebhookconfigurations.admissionregistration.k8s.io \"imageswap-webhook\" is forbidden: \
             ValidatingAdmissionPolicy 'p' with binding 'b' denied request: failed expression: false",
        ),
        Method::PATCH => {
            let body = body.collect().await.unwrap().to_bytes();
            let manager = query
                .split('&')
                .find_map(|pair| pair.strip_prefix("fieldManager="));
            let form = head.headers["content-type"].to_str().unwrap();
            match patched(form, found, &body, manager.unwrap_or_default()) {
                Ok(object) => {
                    let mut object = world.put(&path, object, manager.unwrap_or_default());
                    if mood == Mood::Stealing && path == LEASE {
                        object["spec"]["holderIdentity"] = json!("another");
                    }
                    reply(&object)
                }
                Err(code) => refuse(code, &call),
            }
        }
        // There are none.
        Method::GET if path.ends_with("/endpointslices") => {
            reply(&json!({"metadata": {}, "items": []}))
        }
        // What has no name can't be allowed by name.
        _ => refuse(403, &call),
    }
}

fn patched(form: &str, found: Option<Value>, body: &Bytes, manager: &str) -> Result<Value, u16> {
    let patch: Value = serde_json::from_slice(body).unwrap();
    match form {
        "application/apply-patch+yaml" => {
            let Some(found) = found else {
                return Ok(patch);
            };
            let is_same = ["data", "spec"]
                .iter()
                .all(|part| patch[part] == found[part]);
            let is_ours = found["metadata"]["managedFields"][0]["manager"] == json!(manager);
            if is_same || is_ours {
                Ok(patch)
            } else {
                Err(409)
            }
        }
        "application/json-patch+json" => {
            let mut object = found.ok_or(404_u16)?;
            let patch: json_patch::Patch = serde_json::from_value(patch).unwrap();
            json_patch::patch(&mut object, &patch).map_err(|_| 422_u16)?;
            Ok(object)
        }
        "application/merge-patch+json" => {
            let mut object = found.ok_or(404_u16)?;
            let wanted = &patch["metadata"]["resourceVersion"];
            if !wanted.is_null() && *wanted != object["metadata"]["resourceVersion"] {
                return Err(409);
            }
            json_patch::merge(&mut object, &patch);
            Ok(object)
        }
        _ => Err(415),
    }
}

/// An event for each change from now on.
fn watch_one(world: &World, path: String) -> Response {
    let world = world.clone();
    let mut versions = world.version.subscribe();
    versions.mark_unchanged();
    let last = world.objects.lock().unwrap().get(&path).cloned();
    let events = stream::unfold((versions, last), move |(mut versions, mut last)| {
        let (world, path) = (world.clone(), path.clone());
        async move {
            loop {
                versions.changed().await.ok()?;
                let now = world.objects.lock().unwrap().get(&path).cloned();
                if now == last {
                    continue;
                }
                let (kind, object) = match (&last, &now) {
                    (None, Some(new)) => ("ADDED", partial(new)),
                    (Some(_), Some(new)) => ("MODIFIED", partial(new)),
                    (Some(old), None) => ("DELETED", partial(old)),
                    (None, None) => continue,
                };
                last = now;
                let line = format!("{}\n", json!({"type": kind, "object": object}));
                let event: Result<_, std::io::Error> = Ok(Bytes::from(line));
                return Some((event, (versions, last)));
            }
        }
    });
    Response::new(Body::from_stream(events))
}

/// What the watches ask for.
fn partial(object: &Value) -> Value {
    json!({
        "apiVersion": "meta.k8s.io/v1",
        "kind": "PartialObjectMetadata",
        "metadata": object["metadata"],
    })
}

fn reply(object: &Value) -> Response {
    object.to_string().into_response()
}

fn refuse(code: u16, call: &str) -> Response {
    let message = match code {
        403 => format!("refused: forbidden: User \"imageswap\" cannot {call}"),
        // Of a JSON patch that does not apply.
        422 => "the server rejected our request due to an error in our request".to_owned(),
        _ => format!("refused: {call}"),
    };
    refuse_as(code, &message)
}

fn refuse_as(code: u16, message: &str) -> Response {
    let status = json!({
        "kind": "Status",
        "status": "Failure",
        "code": code,
        "reason": match code {
            404 => "NotFound",
            422 => "Invalid",
            _ => "",
        },
        "message": message,
    });
    // Over several lines, as kube-apiserver does.
    let text = serde_json::to_string_pretty(&status).unwrap();
    (StatusCode::from_u16(code).unwrap(), text).into_response()
}
